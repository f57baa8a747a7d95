"""What a release gives away: the forms of output that a configuration asks for."""

from __future__ import annotations

from dptrain.config import Release
from dptrain.contracts import Access, Output
from dptrain.models.output import make_output


def make_outputs(release: Release) -> tuple[Output | None, ...]:
    """The interfaces that attacks by query meet: confidences as they are, then those asked for."""
    names = dict.fromkeys([release.output, *release.compare])
    asked = [
        make_output(name, top_k=release.top_k, digits=release.digits, temperature=release.temperature)
        for name in names
        if name not in ("weights", "confidences")
    ]
    return (None, *asked)


def given_away(release: Release, offers: frozenset[Access]) -> str:
    """The name of the interface that is given away, as leakage lines call it; `weights` where all is.

    What a release does not hold it does not give away, whatever `release.output` asks for.
    """
    if Access.CONFIDENCES not in offers:
        return "labels_only"
    output = make_output(
        release.output, top_k=release.top_k, digits=release.digits, temperature=release.temperature
    )
    if output is not None:
        return output.name
    return "weights" if Access.WEIGHTS in offers else "confidences"
