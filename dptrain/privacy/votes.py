"""Votes of teachers on disjoint parts of the records, counted with Gaussian noise: plan, loss, noisy counts.

Papernot et al. 2018, "Scalable Private Learning with PATE", sections 4.1 and 4.2 (GNMax, Confident-GNMax),
accounted without looking at the votes: every question costs the same, whatever the teachers answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import torch
from dp_accounting import ComposedDpEvent, DpEvent, GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.pld import privacy_loss_distribution as pld
from scipy.stats import norm
from torch import Tensor

from dptrain.contracts import Budget, ConfigError, PrivacyLoss
from dptrain.privacy.accountant import FINEST, MOST_LOSS, MOST_POINTS_OF_ONE
from dptrain.privacy.gaussian import gaussian_mu
from dptrain.privacy.noise.cost import ROOM
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.plan import MOST_EPSILON, Target, check_delta

ONE_VOTE = math.sqrt(2.0)  # length of the change of counts where one vote moves from one class to another


@dataclass(frozen=True, kw_only=True)
class VotesPlan:
    """Noisy counts of the votes on so many public inputs; public constants, frozen.

    Each unit is in the part of one teacher, which a keyed hash of the unit alone decides. One unit more or
    less changes one teacher, and so one vote on each input; one unit in place of another changes two.
    `noise_multiplier` is the noise's standard deviation over the square root of 2, by which one changed vote
    moves the counts of an input. With a `threshold` an input is answered where the largest count, with noise
    of its own, reaches it, until there are `answers`; every check is paid for, whatever comes of it.
    """

    units: int
    teachers: int
    classes: int
    questions: int
    answers: int  # at most
    noise_multiplier: float
    threshold: float | None = None  # in votes
    check_ratio: float = 1.0  # noise multiplier of a check over that of an answer
    adjacency: str = "add_remove"

    @property
    def steps(self) -> int:
        return self.questions

    @property
    def changed(self) -> int:
        """How many teachers one change of the data set, as `adjacency` has it, changes at most."""
        return 2 if self.adjacency == "replace_one" else 1

    @property
    def noise_std(self) -> float:
        """Standard deviation, in votes, of the noise on the count of each class."""
        return self.noise_multiplier * ONE_VOTE

    @property
    def fresh_std(self) -> float:
        """All of that: no noise is used twice."""
        return self.noise_std

    @property
    def check_std(self) -> float:
        """Standard deviation, in votes, of the noise on the largest count, which one vote moves by 1."""
        return self.noise_multiplier * self.check_ratio

    @property
    def draws(self) -> int:
        """How many normal numbers are drawn, at most."""
        return self.answers * self.classes + (0 if self.threshold is None else self.questions)

    def mu(self, steps: int | None = None) -> float:
        """Parameter of the Gaussian mechanism that the first `steps` questions are (Dong et al. 2022).

        Gaussian mechanisms compose to one whose squared parameter is the sum of theirs (Corollary 3.3), also
        where earlier results decide which is next (Smith and Thakurta 2022, "Fully Adaptive Composition for
        Gaussian Differential Privacy").

        >>> plan = VotesPlan(units=9, teachers=250, classes=10, questions=200, answers=200,
        ...                  noise_multiplier=40 / 2**0.5)
        >>> round(plan.noise_std, 9), round(plan.mu(), 9)  # the square root of 2 * 200, over 40
        (40.0, 0.5)
        """
        steps = self.questions if steps is None else steps
        squares = min(steps, self.answers) * self.noise_multiplier**-2
        if self.threshold is not None:
            squares += steps * (self.noise_multiplier * self.check_ratio) ** -2
        return self.changed * math.sqrt(squares)

    @property
    def interval(self) -> float:
        return max(FINEST, _most_loss(self.mu()) / MOST_POINTS_OF_ONE)

    def loss(self, steps: int | None = None, *, interval: float | None = None) -> PrivacyLoss:
        mu = self.mu(steps)
        interval = self.interval if interval is None else interval
        if mu == 0.0:
            return pld.identity(interval)
        if _most_loss(mu) > MOST_LOSS:
            raise ConfigError(
                f"privacy.noise_multiplier={self.noise_multiplier:.3g} is too little for {self.questions} "
                "questions: epsilon would be in the hundreds, which protects nobody; add noise, or ask less"
            )
        return pld.from_gaussian_mechanism(1.0 / mu, value_discretization_interval=interval)

    def event(self) -> DpEvent:
        """The plan for dp-accounting's Rényi accountant."""
        answer = GaussianDpEvent(self.noise_multiplier / self.changed)
        answers = SelfComposedDpEvent(answer, self.answers)
        if self.threshold is None:
            return answers
        check = GaussianDpEvent(self.noise_multiplier * self.check_ratio / self.changed)
        return ComposedDpEvent([answers, SelfComposedDpEvent(check, self.questions)])

    def describe(self) -> tuple[tuple[str, str], ...]:
        number = {1: "one teacher's vote", 2: "two teachers' votes"}[self.changed]
        asked = f"{self.questions:,} public inputs, each answered"
        if self.threshold is not None:
            asked = (
                f"{self.questions:,} public inputs, of which at most {self.answers:,} are answered: those "
                f"whose largest count, with noise of standard deviation {self.check_std:.4g}, reaches "
                f"{self.threshold:.4g} votes; each check is paid for"
            )
        return (
            (
                "noise",
                f"Gaussian of standard deviation {self.noise_std:.4g} votes, on the count of each class",
            ),
            ("teachers", f"{self.teachers:,} on disjoint parts, by a keyed hash of each unit"),
            ("sensitivity", f"one change of the data changes at most {number} on each input"),
            ("questions", asked),
            ("accounting", "data-independent: the same whatever the teachers answer, and no vote is shown"),
        )


@dataclass(frozen=True, kw_only=True)
class QueriesPlan(VotesPlan):
    """Noisy counts of the votes on whatever is asked, one query after the other; all are answered.

    Figures of such a release are `measured_outside` of its guarantee: nothing may be chosen by them.
    """

    measured_outside: ClassVar[bool] = True

    def describe(self) -> tuple[tuple[str, str], ...]:
        asked = (
            f"{self.answers:,} inputs are answered, chosen by whoever asks; one that is asked again has the "
            "answer that it had, and after the last there is none"
        )
        return tuple(
            ("queries", asked) if name == "questions" else (name, said) for name, said in super().describe()
        )


AnyVotes = TypeVar("AnyVotes", bound=VotesPlan)


def _most_loss(mu: float) -> float:
    """Beyond it there is next to nothing of the losses of a Gaussian mechanism (exp(-50))."""
    return mu**2 / 2 + 10 * mu


def planned(plan: AnyVotes, budget: Budget) -> AnyVotes:
    """The plan with the noise that spends this budget, or that it names.

    Raises ConfigError where delta is too large for so many units.
    """
    if budget.units_public:
        check_delta(budget.delta, plan.units, budget.unit)
    target = Target.of(budget)
    if target is not None:
        return calibrated(plan, target)
    assert budget.noise_multiplier is not None
    return replace(plan, noise_multiplier=budget.noise_multiplier)


def calibrated(plan: AnyVotes, target: Target) -> AnyVotes:
    """The plan with the least noise (to 0.01 %) that costs at most this target, whatever it had before.

    The closed form of a Gaussian mechanism says how much; what counts is the plan's own loss, rounded up.
    """
    if target.key == "epsilon":
        if target.most > MOST_EPSILON:
            raise ConfigError(
                f"privacy.epsilon={target.most:g} protects nobody; choose at most {MOST_EPSILON:g}, or train "
                "without privacy (mechanism=non_private)"
            )
        mu = gaussian_mu(target.most * (1.0 - ROOM), target.at * (1.0 - ROOM))
    elif target.key == "advantage":
        mu = 2.0 * float(norm.ppf((1.0 + target.most * (1.0 - ROOM)) / 2.0))
    else:
        mu = float(norm.ppf(target.most * (1.0 - ROOM)) - norm.ppf(target.at))
    if not 0.0 < mu < math.inf:
        raise ConfigError(
            f"privacy.{target.key}={target.most:g} is too near to blind guessing: no noise is enough for it; "
            "allow more"
        )
    unit = replace(plan, noise_multiplier=1.0).mu()
    found = replace(plan, noise_multiplier=unit / mu)
    while target.spent(found.loss()) > target.most * (1.0 - ROOM / 2):
        found = replace(found, noise_multiplier=found.noise_multiplier * (1.0 + ROOM / 10))
    return found


def noisy_counts(counts: Tensor, plan: VotesPlan, noise: NoiseSource) -> Tensor:
    """Counts of votes (questions, classes) with the plan's noise, float64; NaN where it does not answer.

    Noise multiplier 0 is no noise at all, for controls and tests.
    """
    counts = counts.double().cpu()
    assert counts.shape == (plan.questions, plan.classes), "the plan is of other questions"
    if plan.threshold is None:
        return noise.add([counts], plan.noise_std)[0]
    answered = list(_checked(counts, plan, noise))
    found = torch.full_like(counts, math.nan)
    for index, row in answered:
        found[index] = row
    return found


def _checked(counts: Tensor, plan: VotesPlan, noise: NoiseSource) -> Iterator[tuple[int, Tensor]]:
    """Numbers and noisy counts of the questions that are answered."""
    left = plan.answers
    for index, row in enumerate(counts):
        (largest,) = noise.add([row.max().reshape(1)], plan.check_std)
        if left > 0 and float(largest) >= (plan.threshold or 0.0):
            left -= 1
            yield index, noise.add([row], plan.noise_std)[0]
