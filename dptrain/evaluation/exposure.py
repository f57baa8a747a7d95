"""The table of single records: how easily each probe that was trained on is recognised."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dptrain.contracts import Exposed, Scores
from dptrain.evidence.probes import ProbeAssignment


def exposure(scores: Mapping[str, Scores], assigned: ProbeAssignment) -> tuple[Exposed, ...]:
    """The members among the probes, those first that some attack sees best, and among equals most attacks."""
    members = assigned.members.nonzero().flatten()
    percentiles = {attack: _percentiles(found.scores, assigned.members) for attack, found in scores.items()}
    rows = [
        Exposed(
            record=assigned.origin[probe],
            label=int(assigned.probes.labels[probe]),
            score={attack: float(found.scores[probe]) for attack, found in scores.items()},
            percentile={attack: float(shares[place]) for attack, shares in percentiles.items()},
        )
        for place, probe in enumerate(members.tolist())
    ]
    return tuple(sorted(rows, key=_most_exposed_first))


def _most_exposed_first(row: Exposed) -> tuple[float, float]:
    return -max(row.percentile.values()), -sum(row.percentile.values())


def _percentiles(scores: Tensor, members: Tensor) -> Tensor:
    """Share of the non-members below each member: (members,)."""
    outside = scores[~members].sort().values
    return torch.searchsorted(outside, scores[members]).double() / len(outside)
