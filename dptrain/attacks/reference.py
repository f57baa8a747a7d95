"""A model of the adversary's own, for comparison: what a record's loss is where it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from dptrain.attacks.trials import SHARE
from dptrain.contracts import Part, Records, Release, Targets
from dptrain.contracts.ranges import Count, Positive, Whole


@dataclass(frozen=True, kw_only=True)
class ByReference:
    """An attack that compares the release with a reference model."""

    reference_steps: Whole = 150
    reference_batch_size: Count = 128
    learning_rate: Positive = 2e-3

    def trial(self, release: Release, targets: Targets, rng: torch.Generator) -> Part:
        """Some steps of the reference model's training."""
        few = -(-self.reference_steps // SHARE)
        work = partial(replace(self, reference_steps=few).train_reference, release, targets.background, rng)
        return Part(work=work, times=self.reference_steps / few if few else 1.0)

    def train_reference(self, release: Release, records: Records, rng: torch.Generator) -> nn.Module:
        """The release's architecture, trained by Adam without privacy on these records, to be evaluated."""
        model = release.blank().to(release.device).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
        for _ in range(self.reference_steps):
            batch = records.take(torch.randint(len(records), (self.reference_batch_size,), generator=rng))
            inputs, labels = batch.inputs.to(release.device), batch.labels.to(release.device)
            loss = release.losses(model(inputs), labels).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model.eval()
