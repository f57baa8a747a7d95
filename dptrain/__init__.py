"""Train a PyTorch model with differential privacy, prove what it protects, and attack it, in one command."""

import os

# Threads that wait for each other by spinning starve when another process wants the cores: per-record
# gradients then take several times as long. Read once, when torch loads OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
