"""Clipping from what one backward pass leaves behind (Bu et al. 2023, "Differentially private optimization on
large model at small cost").

One backward pass computes the gradients of layer outputs and no others. From those and from the
inputs of each layer come the norm of every record's gradient, and, once all norms are known, the
sum of clipped gradients, without a second pass.
"""
