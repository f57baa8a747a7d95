"""Chest X-rays that are drawn, not taken: a data set of patients without a person behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dptrain.contracts import ConfigError, Records, Splits
from dptrain.data.drawn_xrays import FINDINGS, draw
from dptrain.data.made_up import declared
from dptrain.data.splits import assemble


@dataclass(frozen=True, kw_only=True)
class ChestPhantom:
    """Grey images (1, size, size) of generated patients; class 0 is normal, then one class a finding.

    Each patient has an anatomy (lungs, heart, spine, ribs) and, with equal chances, nothing or
    one of the `findings`, at one place; each of the patient's `records_per_patient` has its own
    position, exposure and noise. `train`, `holdout` and `test` count records, and are drawn alike.
    """

    mean: Sequence[float]
    std: Sequence[float]
    train: int = 4000
    holdout: int = 600
    test: int = 1000
    size: int = 28
    findings: Sequence[str] = ("opacity",)
    records_per_patient: int = 1

    def __post_init__(self) -> None:
        unknown = [finding for finding in self.findings if finding not in FINDINGS]
        if unknown or not self.findings or len(set(self.findings)) < len(self.findings):
            raise ConfigError(
                f"data.findings={list(self.findings)} must name, once each, some of {', '.join(FINDINGS)}"
            )
        if self.size < 16:
            raise ConfigError(f"data.size={self.size} must be at least 16 pixels; try 28")
        if self.records_per_patient < 1:
            raise ConfigError(f"data.records_per_patient={self.records_per_patient} must be at least 1")
        for key, count in (("train", self.train), ("holdout", self.holdout), ("test", self.test)):
            if count < 1 or count % self.records_per_patient:
                raise ConfigError(
                    f"data.{key}={count} must be a positive multiple of "
                    f"data.records_per_patient={self.records_per_patient}"
                )

    def load(self, rng: torch.Generator) -> Splits:
        train, holdout, test = (self._records(count, rng) for count in (self.train, self.holdout, self.test))
        several = self.records_per_patient > 1

        def patients(count: int, after: int = 0) -> Tensor | None:
            return (after + torch.arange(count)) // self.records_per_patient if several else None

        return assemble(
            name="phantom",
            source=f"generated from seed, chest phantoms {self.size}x{self.size}",
            train=train,
            holdout=holdout,
            test=test,
            classes=("normal", *self.findings),
            mean=self.mean,
            std=self.std,
            group_ids=patients(self.train),
            group_word="patient",
            holdout_group_ids=patients(self.holdout, after=self.train),
            test_group_ids=patients(self.test, after=self.train + self.holdout),
        )

    def declare(self, train: int) -> Splits:
        """What `load` gives, with so many training records, all made up."""
        return declared(
            train,
            self.holdout,
            self.test,
            shape=(1, self.size, self.size),
            name="phantom",
            classes=("normal", *self.findings),
            mean=self.mean,
            std=self.std,
        )

    def _records(self, count: int, rng: torch.Generator) -> Records:
        patients = count // self.records_per_patient
        labels = torch.randint(1 + len(self.findings), (patients,), generator=rng)
        images = draw(
            labels, self.findings, size=self.size, records_per_patient=self.records_per_patient, rng=rng
        )
        return Records(images, labels.repeat_interleave(self.records_per_patient))
