"""Sources of records: each has one method, `load(rng) -> Splits`; so may a class of the user's own."""
