"""A model of the adversary's own, for comparison: what a record's loss is where it was not trained on."""

from __future__ import annotations

import torch
from torch import nn

from dptrain.contracts import Records, Release


def train_reference(
    release: Release,
    records: Records,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    rng: torch.Generator,
) -> nn.Module:
    """The release's architecture trained by Adam, without privacy, on these records; in evaluation mode."""
    model = release.blank().to(release.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for _ in range(steps):
        batch = records.take(torch.randint(len(records), (batch_size,), generator=rng))
        loss = nn.functional.cross_entropy(
            model(batch.inputs.to(release.device)), batch.labels.to(release.device)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
