"""Which records each step sees: Poisson sampling exactly as it is accounted, or shuffled batches."""

from __future__ import annotations

import copy
import math
from typing import Any, Protocol

import torch
from torch import Tensor

from dptrain.contracts import DptrainError
from dptrain.privacy.accountant import DPSGDPlan, batches_a_pass
from dptrain.privacy.banded import BandedPlan, GradientPlan
from dptrain.privacy.noise.keys import KeyChain, Stream


class Sampler(Protocol):
    """Draws the record indices of one step; its state is secret, for it foretells the draws."""

    def draw(self) -> Tensor: ...

    def renew(self, key: bytes, *, skipped: int) -> None:
        """Draw from another key from now on, after so many steps that are lost."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def make_sampler(plan: GradientPlan, units: Units, key: bytes) -> Sampler:
    """The sampler that this plan accounts for."""
    if isinstance(plan, BandedPlan):
        return CyclicSampler(plan, units, key)
    return (PoissonSampler if plan.sampling == "poisson" else ShuffleSampler)(plan, units, key)


class Units:
    """The records of each unit of privacy: one each for records, all that share a group id for patients.

    A sampled unit contributes *one* of its records, drawn anew each time, so that whatever it
    holds it moves a sum of clipped gradients by at most `max_grad_norm`.
    """

    def __init__(self, records: int, group_ids: Tensor | None = None) -> None:
        self.count = records
        self.order: Tensor | None = None  # the records, unit by unit; None: each unit is its own record
        if group_ids is not None:
            _, unit_of_record = torch.unique(group_ids, return_inverse=True)
            self.order = torch.argsort(unit_of_record, stable=True)
            self._set_sizes(torch.bincount(unit_of_record))

    def _set_sizes(self, sizes: Tensor) -> None:
        self.count, self.sizes, self.starts = len(sizes), sizes, sizes.cumsum(0) - sizes

    def __len__(self) -> int:
        return self.count

    def and_more(self, count: int) -> Units:
        """These units and `count` others of one record each, numbered after all records there are."""
        more = copy.copy(self)
        if self.order is None:
            more.count = self.count + count
        else:
            more.order = torch.cat([self.order, len(self.order) + torch.arange(count)])
            more._set_sizes(torch.cat([self.sizes, torch.ones(count, dtype=torch.int64)]))
        return more

    def pick(self, units: Tensor, stream: Stream) -> Tensor:
        """One record index for each of these units."""
        if self.order is None:
            return units
        chances = stream.uniform(len(units))
        return self.order[self.starts[units] + (chances * self.sizes[units]).long()]


def poisson(count: int, rate: float, stream: Stream) -> Tensor:
    """Which of `count` units take part, each independently with probability `rate`: in order, int64.

    Costs as much as units are drawn, not as there are: what is drawn is how many units are passed
    over before each that takes part, which is geometric (Devroye 1986, "Non-Uniform Random Variate
    Generation", X.2). Whatever becomes of the others, each unit's odds are those of Poisson
    sampling within a factor of 1 +- 2^-43 / rate, for gaps of up to 36 times their mean, which
    one in 2^52 exceeds: uniform numbers have 106 bits, so that their logarithm is off by at most
    2^-52, and by 2^-51 of itself. At a rate of 1e-4 the factor is 1 to nine digits.

    >>> poisson(4, 1.0, Stream(bytes(32))).tolist()
    [0, 1, 2, 3]
    """
    found, start = [torch.empty(0, dtype=torch.int64)], 0
    while start < count:
        expected = rate * (count - start)
        most = math.ceil(expected + 6 * math.sqrt(expected)) + 8  # short once in 1e9
        coarse, fine = stream.uniform(2, most)
        passed = passed_over(coarse + fine * 2.0**-53, rate).clamp_(max=count).long()
        places = start - 1 + (passed + 1).cumsum(0)
        found.append(places[: int(torch.searchsorted(places, count))])
        start = int(places[-1]) + 1
    return torch.cat(found)


def passed_over(uniform: Tensor, rate: float) -> Tensor:
    """How many units fail before one succeeds, by inversion: whole numbers, float64.

    >>> passed_over(torch.tensor([0.9, 0.51, 0.49, 0.24], dtype=torch.float64), 0.5).tolist()
    [0.0, 0.0, 1.0, 2.0]
    """
    exponential = -uniform.clamp(min=2.0**-106).log()  # the logarithm of 0 is infinite
    return (exponential / (-math.log1p(-rate) if rate < 1.0 else math.inf)).floor_()


class PoissonSampler:
    """Each unit takes part in each step independently with probability `sample_rate`; a step may be empty."""

    def __init__(self, plan: DPSGDPlan, units: Units, key: bytes) -> None:
        self.sample_rate = plan.sample_rate
        self.units = units
        self.keys = KeyChain(key)

    def renew(self, key: bytes, *, skipped: int) -> None:  # noqa: ARG002
        """Draw from another key from now on."""
        self.keys = KeyChain(key)

    def draw(self) -> Tensor:
        stream = Stream(self.keys.next())
        return self.units.pick(poisson(len(self.units), self.sample_rate, stream), stream)

    def state_dict(self) -> dict[str, Any]:
        return self.keys.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.keys.load_state_dict(state)


def dealt(count: int, batches: int, key: bytes) -> tuple[Tensor, ...]:
    """Which of `count` units each batch gets; where a unit goes does not depend on the other units."""
    places = (Stream(key).uniform(count) * batches).long().clamp_(max=batches - 1)
    order = torch.argsort(places, stable=True)
    return order.split(torch.bincount(places, minlength=batches).tolist())


class ShuffleSampler:
    """Each pass deals every unit anew to one of its batches, at random and whatever other units there are.

    Slices of a permutation would not do: one unit more displaces others, so that a batch moves by twice the
    clipping norm and the last one by once. Dealt like this it moves one batch of each pass, by once (Chua et
    al. 2024, "Balls-and-Bins Sampling for DP-SGD"). Accounted without amplification: a pass is one Gaussian
    mechanism. How many batches a pass has is the plan's, from numbers that are public.
    """

    def __init__(self, plan: DPSGDPlan, units: Units, key: bytes) -> None:
        self.batches = batches_a_pass(plan)
        self.units = units
        self.keys = KeyChain(key)
        self.position = self.batches

    def renew(self, key: bytes, *, skipped: int) -> None:
        """Draw from another key from now on; the pass that is under way stays as it was dealt.

        Raises DptrainError where steps are lost: taken anew, a record would take part once more in this pass
        than is accounted for.
        """
        if skipped:
            raise DptrainError(
                "resume: the steps that were lost add up to other sums here, and with training.sampling="
                "shuffle they cannot be taken anew within the budget; resume on the machine, with "
                "performance.threads and the library versions that the run was begun with, or start a new run"
            )
        self.keys = KeyChain(key)

    def draw(self) -> Tensor:
        if self.position == self.batches:
            self._deal(self.keys.next())
            self.position = 0
        stream = Stream(self.keys.next())
        members = self.members[self.position]
        self.position += 1
        return self.units.pick(members, stream)

    def _deal(self, key: bytes) -> None:
        self._pass, self.members = key, dealt(len(self.units), self.batches, key)

    def state_dict(self) -> dict[str, Any]:
        begun = {} if self.position == self.batches else {"pass": self._pass.hex()}
        return {**self.keys.state_dict(), **begun, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.keys.load_state_dict(state)
        self.position = state["position"]
        if "pass" in state:
            self._deal(bytes.fromhex(state["pass"]))


class CyclicSampler:
    """Groups of units take turns; each unit of the group whose turn it is takes part with `turn_rate`.

    Each unit's group is drawn for it alone and stays what it is, whatever becomes of the draws: a unit that
    changed its group could take part twice within a turn of all, where the noise's bands overlap. For the
    same reason steps that are lost count as turns.
    """

    def __init__(self, plan: BandedPlan, units: Units, key: bytes) -> None:
        self.rate, self.groups, self.units = plan.turn_rate, plan.groups, units
        self.keys = KeyChain(key)
        self.turn = 0
        self._divide(self.keys.next())

    def _divide(self, key: bytes) -> None:
        self._partition, self.members = key, dealt(len(self.units), self.groups, key)

    def renew(self, key: bytes, *, skipped: int) -> None:
        """Draw from another key from now on, after so many steps that are lost."""
        self.keys = KeyChain(key)
        self.turn += skipped

    def draw(self) -> Tensor:
        stream = Stream(self.keys.next())
        members = self.members[self.turn % self.groups]
        self.turn += 1
        return self.units.pick(members[poisson(len(members), self.rate, stream)], stream)

    def state_dict(self) -> dict[str, Any]:
        return {**self.keys.state_dict(), "partition": self._partition.hex(), "turn": self.turn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.keys.load_state_dict(state)
        self._divide(bytes.fromhex(state["partition"]))
        self.turn = state["turn"]
