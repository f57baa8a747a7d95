"""Whether a model treats each record by itself and remembers none: tried out, on rows that are no record.

A layer's type says little: what counts is behaviour. In training mode, with the same masks, the output and
the loss for one row, and their gradients, must not depend on what the other rows are or whether they are
there; and a call must leave everything that the model holds as it was. It is a test, not a proof: a
dependence that none of these rows brings out is not seen.
"""
