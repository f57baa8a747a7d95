"""The assumptions of a guarantee, and what is outside it, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from dptrain.contracts import Randomness, Statement
from dptrain.contracts.rounding import rounded_up, rounded_up_to
from dptrain.report import words


def assumptions(statement: Statement) -> Iterator[str]:
    """What the guarantee rests on."""
    if not words.is_private(statement):
        yield "None are needed: nothing is promised."
        return
    unit = statement.unit
    yield f"Two data sets are neighbours when one {unit} is {words.ADJACENCY[statement.adjacency]}."
    if statement.units_public:
        yield f"The number of {unit}s is taken to be public."
    yield f"Released: {statement.released}. Nothing else of this run is covered, this report included."
    ran, assumed = statement.sampling_run, statement.sampling_assumed
    if statement.plan:
        yield f"The mechanism: {'; '.join(f'{name} {text}'.strip() for name, text in statement.plan)}."
    elif ran == assumed:
        yield f"Batches were drawn by {ran} sampling, as the accountant assumes."
    else:
        yield f"Batches were drawn by {ran} sampling, accounted as {assumed} sampling."
    randomness = statement.randomness
    if randomness is not None:  # as of an older run, whose report does not say
        yield _seed(randomness)
    yield from _noise(randomness)
    yield from _contribution(statement)
    yield from _declared(statement)
    if statement.trust is None:
        yield "The computer that trained, and everyone with access to it, are trusted."
    else:
        yield f"Trust model: {statement.trust.model}. Records are seen by {statement.trust.sees_records}."
        yield f"Believed without proof: {'; '.join(statement.trust.trusted)}."
    if statement.hashes is not None and statement.hashes.weights is not None:
        yield (
            f"This is said of the weights whose SHA-256 begins {statement.hashes.weights[:16]}"
            + (f", on {statement.date}" if statement.date else "")
            + "; `python -m dptrain task=verify release=FOLDER` checks it."
        )


def _seed(randomness: Randomness) -> str:
    """Who may know the numbers that were drawn."""
    if not randomness.secret:
        return "**The seed of noise and sampling is not secret.**"
    if randomness.cryptographic:
        return "The seed of noise and sampling is secret, and their generator is a cryptographic one."
    return (
        "The seed of noise and sampling is secret, but the generator is not a cryptographic one "
        f"({randomness.source}): it is taken to be as good as true randomness."
    )


def _noise(randomness: Randomness | None) -> Iterator[str]:
    """What the noise is taken to be, and what it costs that it is only nearly Gaussian."""
    if randomness is None or (randomness.grid is None and not randomness.assumptions):
        yield "Noise is added in floating-point arithmetic, which is taken to be exact."
        return
    if randomness.grid is not None:
        yield (
            f"Sum and noise are rounded to one public grid, {randomness.grid:.2g} standard deviations of the "
            "noise wide. That noise is Gaussian only nearly costs at most "
            f"{rounded_up_to(randomness.epsilon, 2)} of epsilon and {rounded_up_to(randomness.delta, 2)} of "
            "delta, which are counted."
        )
    yield from (f"{each[0].upper()}{each[1:].rstrip('.')}." for each in randomness.assumptions)


def _contribution(statement: Statement) -> Iterator[str]:
    """How much one unit may add, and how it changes the set that is trained on."""
    found, unit = statement.sensitivity, statement.unit
    if found is not None and found.most is not None:
        used = "" if found.records is None else f", by {found.records} of its records at most"
        moved = "a step's sum of gradients"
        if statement.plan:
            moved = "all that noise is added to, in units of noise over noise multiplier,"
        yield (
            f"One {unit} moves {moved} by at most {rounded_up_to(found.most, 6)}{used}. "
            f"That the rows of a batch do not depend on each other: {found.independence}."
        )
        if found.audit is not None:
            ratio = "" if found.ratio is None else f" (largest ratio {rounded_up(found.ratio, 4)})"
            yield f"Tried on the engine and model in use, on rows that are no record: {found.audit}{ratio}."
    if statement.assignment is not None and statement.assignment.change is not None:
        yield f"The set that is trained on: {statement.assignment.change.rstrip('.')}."


def _declared(statement: Statement) -> Iterator[str]:
    """Which constants count as public, and which data."""
    found = statement.constants
    if found is not None:
        named = ", ".join(found.declared).replace("_", " ")
        declared = f"{named}; " if named else ""
        yield (
            f"Declared, and taken to depend on no record: {declared}"
            f"{'' if found.mean is None else 'mean, standard deviation and '}bounds of inputs"
            + (", class frequencies." if found.class_prior is not None else ".")
        )
        if found.from_units:
            named = ", ".join(found.from_units).replace("_", " ")
            yield f"Computed from the number of {statement.unit}s: {named}."
    yield from (f"Taken to be public: {each}." for each in statement.public_data)


def outside(statement: Statement) -> list[str]:
    """What the guarantee does not cover."""
    return list(statement.outside_guarantee) or ["nothing that this program knows of"]
