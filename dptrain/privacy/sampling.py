"""Which records each step sees: Poisson sampling exactly as it is accounted, or shuffled batches."""

from __future__ import annotations

import copy
import math
from typing import Any, Protocol

import torch
from torch import Tensor

from dptrain.contracts import Plan


class Sampler(Protocol):
    """Draws the record indices of one step; its state is secret, for it foretells the draws."""

    def draw(self) -> Tensor: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def make_sampler(plan: Plan, units: Units, generator: torch.Generator) -> PoissonSampler | ShuffleSampler:
    """The sampler that this plan accounts for."""
    if plan.sampling == "poisson":
        return PoissonSampler(plan, units, generator)
    return ShuffleSampler(plan, units, generator)


class Units:
    """The records of each unit of privacy: one each for records, all that share a group id for patients.

    A sampled unit contributes *one* of its records, drawn anew each time, so that whatever it
    holds it moves a sum of clipped gradients by at most `max_grad_norm`.
    """

    def __init__(self, records: int, group_ids: Tensor | None = None) -> None:
        if group_ids is None:
            self.order, self.sizes = torch.arange(records), torch.ones(records, dtype=torch.int64)
        else:
            _, unit_of_record = torch.unique(group_ids, return_inverse=True)
            self.order = torch.argsort(unit_of_record, stable=True)
            self.sizes = torch.bincount(unit_of_record)
        self.starts = self.sizes.cumsum(0) - self.sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def and_more(self, count: int) -> Units:
        """These units and `count` others of one record each, numbered after all records there are."""
        more = copy.copy(self)
        more.order = torch.cat([self.order, len(self.order) + torch.arange(count)])
        more.sizes = torch.cat([self.sizes, torch.ones(count, dtype=torch.int64)])
        more.starts = more.sizes.cumsum(0) - more.sizes
        return more

    def pick(self, units: Tensor, generator: torch.Generator) -> Tensor:
        """One record index for each of these units."""
        chances = torch.rand(len(units), dtype=torch.float64, generator=generator)
        return self.order[self.starts[units] + (chances * self.sizes[units]).long()]


class PoissonSampler:
    """Each unit takes part in each step independently with probability `sample_rate`; a step may be empty."""

    def __init__(self, plan: Plan, units: Units, generator: torch.Generator) -> None:
        self.sample_rate = plan.sample_rate
        self.units = units
        self.generator = generator

    def draw(self) -> Tensor:
        # Double precision: in single, the smallest rates would be rounded to multiples of 2^-24.
        chances = torch.rand(len(self.units), dtype=torch.float64, generator=self.generator)
        return self.units.pick((chances < self.sample_rate).nonzero().squeeze(1), self.generator)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])


class ShuffleSampler:
    """Batches of a fixed size from a fresh permutation each pass; the last of a pass may be smaller.

    Accounted without amplification: nothing better is proved for shuffled batches that
    would hold at the noise levels in use (Chua et al. 2024, "How Private are DP-SGD Implementations?").
    """

    def __init__(self, plan: Plan, units: Units, generator: torch.Generator) -> None:
        self.batch = plan.expected_batch_size
        self.batches = math.ceil(len(units) / self.batch)
        self.units = units
        self.generator = generator
        self.order = torch.empty(0, dtype=torch.int64)
        self.position = self.batches

    def draw(self) -> Tensor:
        if self.position == self.batches:
            self.order = torch.randperm(len(self.units), generator=self.generator)
            self.position = 0
        start = self.position * self.batch
        self.position += 1
        return self.units.pick(self.order[start : start + self.batch], self.generator)

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": self.generator.get_state(),
            "order": self.order,
            "position": self.position,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])
        self.order, self.position = state["order"], state["position"]
