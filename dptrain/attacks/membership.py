"""Was this record trained on? Asked of the model's confidences, without models of the adversary's own.

A model is surer of the label of a record that it was trained on (Yeom et al. 2018, "Privacy Risk
in Machine Learning"). LiRA (lira.py) and RMIA (rmia.py) add what the model would say otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dptrain.attacks.bets import Betting
from dptrain.attacks.disguise import Disguise
from dptrain.attacks.reference import ByReference
from dptrain.contracts import Access, Bets, Part, Records, Release, Scores, Targets
from dptrain.contracts.ranges import Whole

LEAST = 1e-30  # stands for a confidence of zero; single precision shows others as small


def true_class(confidences: Tensor, labels: Tensor) -> Tensor:
    """The confidence in each record's label, never quite zero: (N,) float64 from (N, classes)."""
    return confidences.double().gather(1, labels[:, None]).squeeze(1).clamp(min=LEAST)


def log_odds(confidences: Tensor, labels: Tensor) -> Tensor:
    """log p / (1 - p) of each record's label: (N,) float64, finite for every (N, classes).

    Close to normal over trainings, unlike the loss (Carlini et al. 2022, "Membership Inference
    Attacks From First Principles"). 1 - p is summed over the other classes: subtracted from one,
    small values of it are lost.
    """
    shown = confidences.double()
    mine = shown.gather(1, labels[:, None]).squeeze(1)
    others = shown.scatter(1, labels[:, None], 0.0).sum(1)
    zero = _zero(shown)
    return mine.clamp(min=zero).log() - others.clamp(min=zero).log()


def _zero(confidences: Tensor) -> float:
    """What a zero stands for: half of the least number shown, such as 0.005 where two digits are shown.

    A much smaller number would make the step from 0.01 to 0.00 outweigh all that is shown.
    """
    positive = confidences[confidences > 0]
    return max(LEAST, float(positive.min()) / 2) if len(positive) else LEAST


def odds(release: Release, answers: Tensor, labels: Tensor) -> Tensor:
    """What answers say for the labels: log-odds of classes, log-likelihoods of others; (N,) float64."""
    if release.task is None or release.task.of_classes:
        return log_odds(answers, labels)
    return release.task.log_likelihood(answers, labels)


def probe_log_odds(release: Release, probes: Records) -> Tensor:
    """The log-odds that a model's interface gives each probe's label: (probes,) float64."""
    return odds(release, release.predict(probes.inputs), probes.labels)


def _log_likelihoods(release: Release, probes: Records) -> Tensor:
    """What a model's interface gives each probe's label, in nats: (probes,) float64."""
    found = probe_log_odds(release, probes)
    return logsigmoid(found) if release.task is None or release.task.of_classes else found


@dataclass(frozen=True, kw_only=True)
class LossThreshold(Disguise):
    """Scores a probe by the log-odds of its label, which orders probes as their losses do."""

    needs: ClassVar[frozenset[Access]] = frozenset({Access.CONFIDENCES})
    game: ClassVar[str] = "membership"
    any_labels: ClassVar[bool] = True

    def run(self, release: Release, targets: Targets, rng: torch.Generator) -> Scores:
        assert targets.probes is not None
        answers = self.ask(release, targets, rng).confidences(targets.probes.inputs)
        return Scores(scores=odds(release, answers, targets.probes.labels))


@dataclass(frozen=True, kw_only=True)
class LossBets(Betting, ByReference):
    """Bets on the probes of a one-run audit: what the label's loss lacks beside that of reference models.

    References say how hard a probe is (Watson et al. 2022, "On the Importance of Difficulty
    Calibration"). They are `shadows` models of an informed adversary, each trained on half of the probes
    and all other records: what they lose, and the release does not, is in log-likelihood. Without shadow
    models it is one of the release's architecture, trained without privacy on the adversary's own
    records, and compared in log-odds; `reference_steps=0` does without, as does whoever knows no
    architecture.
    """

    needs: ClassVar[frozenset[Access]] = frozenset({Access.CONFIDENCES})
    game: ClassVar[str] = "audit_records"
    any_labels: ClassVar[bool] = True
    shadows_needed: ClassVar[bool] = False

    shadows: Whole = 0
    private_shadows: bool = False

    def trial(self, release: Release, targets: Targets, rng: torch.Generator) -> Part:
        if self.shadows:
            return Part(work=partial(self.run, release, targets, rng), times=1.0)
        return super().trial(release, targets, rng)

    def run(self, release: Release, targets: Targets, rng: torch.Generator) -> Bets:
        assert targets.probes is not None
        if self.shadows and targets.shadows is not None:
            shadows = targets.shadows.train(self.shadows, private=self.private_shadows)
            # Behind the same interface, so that what it hides of the one it hides of the others.
            models = [replace(shadow.release, output=release.output) for shadow in shadows]
            expected = torch.stack([_log_likelihoods(each, targets.probes) for each in models]).mean(0)
            return Bets(scores=_log_likelihoods(release, targets.probes) - expected, guesses=self.guesses)
        scores = probe_log_odds(release, targets.probes)
        if self.reference_steps > 0 and release.architecture is not None:
            reference = self.train_reference(release, targets.background, rng)
            # Behind the same interface, so that what it hides of the one it hides of the other.
            scores -= probe_log_odds(replace(release, weights=reference.state_dict()), targets.probes)
        return Bets(scores=scores, guesses=self.guesses)
