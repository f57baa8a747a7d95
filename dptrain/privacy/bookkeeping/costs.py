"""Which way to a layer's per-record gradients is the cheapest, decided from shapes alone.

A record's weight gradient is a product of output gradients (positions, outputs) and inputs
(positions, fan_in). Its norm follows from the two Gram matrices of the positions, from the
product formed and kept, or from the product formed and formed again for the sum.
"""

from __future__ import annotations

# In multiply-adds, of which a processor does about as many while it moves one number to memory and back.
# Fitted on two CPU cores (AVX-512, 20 GB/s a core): a kept gradient is written once and read twice.
KEPT_NUMBER = 60.0
GRAM_NUMBER = 4.0  # an entry of a Gram matrix is written, multiplied and summed

FEW_INPUTS = 64  # of an output of a convolution, up to which its patches may be formed

KEEP, GRAM, TWICE = "keep", "gram", "twice"


def way(*, positions: int, fan_in: int, outputs: int, gram: float) -> str:
    """How to get the norm of a record's weight gradient, given the multiply-adds of its Gram matrices.

    >>> way(positions=1024, fan_in=576, outputs=64, gram=1024**2 * 128)
    'keep'
    >>> way(positions=16, fan_in=4608, outputs=512, gram=16**2 * 1024)
    'gram'
    """
    costs = {KEEP: KEPT_NUMBER * fan_in * outputs, GRAM: gram, TWICE: float(positions * fan_in * outputs)}
    return min(costs, key=lambda way: costs[way])
