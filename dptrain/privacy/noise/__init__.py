"""Gaussian noise from a cryptographic generator, added on a public grid, and what its imperfection costs."""
