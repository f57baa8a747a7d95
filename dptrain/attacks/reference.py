"""A model of the adversary's own, for comparison: what a record's loss is where it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from dptrain.contracts import Records, Release
from dptrain.contracts.ranges import Count, Positive, Whole


@dataclass(frozen=True, kw_only=True)
class ByReference:
    """An attack that compares the release with a reference model."""

    reference_steps: Whole = 150
    reference_batch_size: Count = 128
    learning_rate: Positive = 2e-3

    def train_reference(self, release: Release, records: Records, rng: torch.Generator) -> nn.Module:
        """The release's architecture, trained by Adam without privacy on these records, to be evaluated."""
        model = release.blank().to(release.device).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
        for _ in range(self.reference_steps):
            batch = records.take(torch.randint(len(records), (self.reference_batch_size,), generator=rng))
            inputs, labels = batch.inputs.to(release.device), batch.labels.to(release.device)
            loss = nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model.eval()
