"""Train a PyTorch model with differential privacy, prove what it protects, and attack it, in one command."""

import os

# How threads wait for each other, read once, when torch loads OpenMP. Those that spin for long starve when
# another process wants the cores (a step takes fifty times as long); those that sleep at once take nearly
# twice as long for small models. So they spin for microseconds (GNU's OpenMP), or sleep (others).
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
for _name, _value in WAITING.items():
    os.environ.setdefault(_name, _value)
