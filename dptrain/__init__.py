"""Train a PyTorch model with differential privacy, prove what it protects, and attack it, in one command."""
