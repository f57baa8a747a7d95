"""What did a record hold in the one column that was kept back? Attribute inference.

Fredrikson et al. 2014 ("Privacy in Pharmacogenetics", section 4): fill in each value that the column
may have, ask the model, and name the value that best agrees with the record's label, weighed by
how likely the value was beforehand. Yeom et al. 2018 ("Privacy Risk in Machine Learning", section 4)
judge agreement by how large the errors on training records are, and Mehnaz et al. 2022 ("Are Your
Sensitive Attributes Private?", section 5) by the confidences of a black box. Beforehand means with
all the other columns and the label: what a regression says that never met the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from dptrain.attacks.disguise import Disguise, Disguised
from dptrain.contracts import (
    Access,
    Attributes,
    ConfigError,
    Part,
    Records,
    Release,
    Sensitive,
    Targets,
    Task,
)
from dptrain.contracts.ranges import Whole

FAINTEST = 1e-6  # probability; interfaces round, and a zero would rule a value out for good
LEAST_LOSS = 1e-3  # nats; mean loss of a model that knows its training records by heart
WEIGHTS = torch.arange(0.0, 4.01, 0.05, dtype=torch.float64)  # that confidences are tried with

Regression = Callable[[], Any]  # makes a scikit-learn classifier


@dataclass(frozen=True, kw_only=True)
class AttributeInference(Disguise):
    """Names, for each probe, the value of each sensitive column that prior and model together make likeliest.

    The prior is the regression, among ridge logistic ones and, with `records_for_trees`
    background records or more, boosted trees, that predicts best over `folds` of the background.
    """

    needs: ClassVar[frozenset[Access]] = frozenset({Access.CONFIDENCES})
    game: ClassVar[str] = "attribute"
    any_labels: ClassVar[bool] = True

    folds: int = 5
    records_for_trees: Whole = 1000

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ConfigError(f"folds={self.folds} must be at least 2")

    def check(self, targets: Targets) -> None:
        """Raise ConfigError where there are too few background records for every fold to have one."""
        super().check(targets)
        if len(targets.background) < self.folds:
            raise ConfigError(
                f"folds={self.folds} is more than the {len(targets.background)} held-out records that are "
                "left beside the probes; choose fewer folds, or hold out more records"
            )

    def run(self, release: Release, targets: Targets, rng: torch.Generator) -> Attributes:
        queries, background = self.ask(release, targets, rng), targets.background
        fold = torch.randperm(len(background), generator=rng) % self.folds
        guesses, imputed = {}, {}
        for column in targets.sensitive:
            subjects = targets.subjects[column.name]
            prior, known_prior = self._impute(column, background, subjects, fold, len(targets.classes))
            score = weigh(
                prior,
                losses(queries, column, subjects, release.task),
                known_prior,
                losses(queries, column, background, release.task),
                column.read(background.inputs),
            )
            guesses[column.name], imputed[column.name] = score.argmax(1), prior.argmax(1)
        return Attributes(guesses=guesses, imputed=imputed)

    def trial(self, release: Release, targets: Targets, rng: torch.Generator) -> Part:  # noqa: ARG002
        """Each regression once, for the first column; its time grows with the values that a column has."""
        column, *_ = targets.sensitive
        background = targets.background
        seen, known = _features(column, background, len(targets.classes)), column.read(background.inputs)

        def fit_each() -> None:
            for regression in self._regressions(len(background)):
                _predict(regression, seen, known.numpy(), seen[:1], len(column.values))

        values = sum(len(each.values) for each in targets.sensitive)
        return Part(work=fit_each, times=self.folds * values / len(column.values))

    def _impute(
        self, column: Sensitive, background: Records, subjects: Records, fold: Tensor, classes: int
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of each value for the subjects, and, each by other folds, for the background."""
        seen, asked = _features(column, background, classes), _features(column, subjects, classes)
        if background.labels.is_floating_point():  # as wide as the other columns, for ridge regressions
            labels = slice(background.inputs.shape[1], None)
            middle, spread = seen[:, labels].mean(0), seen[:, labels].std(0) + FAINTEST
            for each in (seen, asked):
                each[:, labels] = (each[:, labels] - middle) / spread
        known, values = column.read(background.inputs).numpy(), len(column.values)
        best: tuple[float, Regression | None, np.ndarray] = (np.inf, None, np.empty(0))
        for regression in self._regressions(len(background)):
            crossed = np.empty((len(known), values))
            for left_out in range(self.folds):
                out = (fold == left_out).numpy()
                crossed[out] = _predict(regression, seen[~out], known[~out], seen[out], values)
            loss = -np.log(crossed[np.arange(len(known)), known]).mean()
            if loss < best[0]:
                best = (float(loss), regression, crossed)
        _, chosen, crossed = best
        assert chosen is not None
        found = _predict(chosen, seen, known, asked, values)
        return torch.from_numpy(found).log(), torch.from_numpy(crossed).log()

    def _regressions(self, records: int) -> list[Regression]:
        def logistic(strength: float) -> Regression:
            return lambda: LogisticRegression(C=strength, max_iter=2000)

        def trees() -> HistGradientBoostingClassifier:
            return HistGradientBoostingClassifier(
                max_iter=50, max_leaf_nodes=8, early_stopping=False, random_state=0
            )

        made: list[Regression] = [logistic(strength) for strength in (0.03, 0.3, 3.0, 30.0)]
        return [*made, trees] if records >= self.records_for_trees else made


def weigh(prior: Tensor, loss: Tensor, known_prior: Tensor, known_loss: Tensor, known: Tensor) -> Tensor:
    """Score of each value, (N, values): log-prior plus what the model's loss at the value adds.

    `prior` and `loss` (N, values) are the subjects', `known_prior` and `known_loss` those of background
    records whose value is `known`. Half of the subjects were trained on. For the other half, a loss
    counts as far as it helps to find the background's values. For the members, whose mean loss is
    twice the subjects' less the background's, losses are exponential (Yeom et al. 2018 take
    a density of training errors likewise), so that one counts the more, the lower that mean is.
    """
    weight = _calibrated(known_prior, known_loss, known)
    strangers = max(_expected(known_prior, known_loss), LEAST_LOSS)
    members = min(max(2 * _expected(prior, loss) - strangers, LEAST_LOSS), strangers)
    sharper = weight + 1 / members - 1 / strangers
    return prior + torch.logaddexp(
        -np.log(members) - sharper * loss,
        -np.log(strangers) - weight * loss,
    )  # fmt: skip


def _calibrated(prior: Tensor, loss: Tensor, known: Tensor) -> float:
    """The weight of the loss that makes the known values likeliest; 0 if it only misleads."""
    scores = (prior - WEIGHTS[:, None, None] * loss).log_softmax(-1)  # (weights, N, values)
    return float(WEIGHTS[scores[:, torch.arange(len(known)), known].mean(1).argmax()])


def _expected(prior: Tensor, loss: Tensor) -> float:
    """Mean loss over records, each at the values that it may have."""
    return float((prior.exp() * loss).sum(1).mean())


def losses(queries: Disguised, column: Sensitive, records: Records, task: Task | None = None) -> Tensor:
    """Loss of the label in nats with each value of the column filled in, (N, values); N queries a value."""
    confidences = [
        queries.confidences(column.fill(records.inputs, value)).double()
        for value in range(len(column.values))
    ]
    if task is not None and not task.of_classes:  # all at once: the same errors are as likely for each value
        labels = torch.cat([records.labels] * len(confidences))
        said = task.log_likelihood(torch.cat(confidences), labels)
        return -said.reshape(len(confidences), -1).T
    of_label = torch.stack([rows.gather(1, records.labels[:, None])[:, 0] for rows in confidences], 1)
    return -of_label.clamp(FAINTEST, 1.0).log()


def _features(column: Sensitive, records: Records, classes: int) -> np.ndarray:
    """What is known beside the column: the other columns and the label, (N, width + classes).

    Of a label that is no class its numbers stand there.
    """
    label = records.labels.view(len(records), -1)
    if not label.is_floating_point():
        label = F.one_hot(records.labels, classes)
    label = label.to(records.inputs)
    return torch.cat([column.hide(records.inputs), label], 1).double().numpy()


def _predict(
    regression: Regression, seen: np.ndarray, known: np.ndarray, asked: np.ndarray, values: int
) -> np.ndarray:
    """Probability of each value (N, values); one that was never seen shares the weight of one record."""
    shares = np.zeros((len(asked), values))
    present = np.unique(known)
    if len(present) == 1:
        shares[:, present] = 1.0
    else:
        shares[:, present] = regression().fit(seen, known).predict_proba(asked)
    return np.asarray((shares * len(known) + 1 / values) / (len(known) + 1))
