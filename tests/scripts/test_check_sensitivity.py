"""The check of sensitivities refuses what mixes, and sees small norms, leaking divisors, copies apart."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from dptrain.privacy.agreement import Chosen
from dptrain.privacy.clipping import Clipper
from dptrain.privacy.dpsgd import DPSGDEngine
from dptrain.privacy.gradients import ByRules
from dptrain.privacy.noisy import NoisySum
from dptrain.privacy.sampling import ShuffleSampler

pytestmark = pytest.mark.run

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import bench_backbones as backbones  # noqa: E402
import check_sensitivity as check  # noqa: E402
import replay as trainings  # noqa: E402


class Finite(check.Subject):
    """Without rows that are no number, which in a model that mixes would leave nothing to clip."""

    def inputs(self, count: int, generator: torch.Generator) -> torch.Tensor:
        return 20 * torch.randn(count, *self.shape, generator=generator)


def subject(name: str):
    return next(each for each in check.subjects(quick=True) if each.name == name)


@pytest.mark.parametrize("mode", check.MODES)
def test_an_accepted_model_moves_the_sum_by_the_claim_at_most(mode) -> None:
    assert check.refusal(subject("SmallCNN")) is None
    assert 0.5 < check.worst_change(subject("SmallCNN"), *mode) <= 1.0


def test_a_model_that_mixes_is_refused_and_would_move_the_sum_by_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even unrefused it would be taken row by row, as its gradients are not those of single rows."""
    mixing = subject("mixing: previous row")
    assert "depends on the other records" in check.refusal(mixing)
    assert check.worst_change(Finite(**vars(mixing)), "flat", "record", 1) <= 1.0
    monkeypatch.setattr(check, "DPSGDEngine", partial(DPSGDEngine, chosen=Chosen(make=ByRules)))
    assert check.worst_change(Finite(**vars(mixing)), "flat", "record", 1) > 1.05


def test_a_norm_that_is_too_small_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = Clipper.factors
    monkeypatch.setattr(Clipper, "factors", lambda self, norms: factors(self, 0.9 * norms))
    assert check.worst_change(subject("Mlp"), "flat", "record", 1) > 1.05


def test_a_whole_training_differs_in_its_sums_alone() -> None:
    found = trainings.replay("flat clipping")
    assert found["worst_ratio"] <= 1.0
    assert found["all_else_invariant"]


def test_a_divisor_that_counts_the_records_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    release = NoisySum.release

    def leaking(self: NoisySum) -> None:
        self.expected_batch_size = 20 + float(
            torch.cat([p.summed_grad.flatten() for p in self.params]).norm()
        )
        release(self)

    monkeypatch.setattr(NoisySum, "release", leaking)
    assert not trainings.replay("flat clipping")["all_else_invariant"]


def test_batches_that_are_slices_of_a_permutation_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One unit less moves others up, so that a sum changes by two gradients, which may be opposite ones."""

    def slices(self: ShuffleSampler) -> torch.Tensor:
        if self.position == self.batches:
            generator = torch.Generator().manual_seed(1)
            self._pass = self.keys.next()
            self.members = torch.randperm(len(self.units), generator=generator).split(20)
            self.position = 0
        self.position += 1
        return self.members[self.position - 1]

    monkeypatch.setattr(ShuffleSampler, "draw", slices)
    assert not trainings.replay("shuffled batches")["all_else_invariant"]


def test_copies_that_are_clipped_each_for_itself_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = check.DPSGDEngine

    def apart(*arguments, **options):
        made = engine(*arguments, **options)
        accumulate = made.accumulate
        made.accumulate = lambda inputs, labels, _: accumulate(inputs, labels, 1)
        return made

    monkeypatch.setattr(check, "DPSGDEngine", apart)
    assert check.worst_change(subject("Mlp"), "flat", "group", 2) > 1.05


def test_a_backbone_that_is_refused_fails_and_its_weights_are_made_once(tmp_path, monkeypatch) -> None:
    made = []
    monkeypatch.setattr(backbones, "some_weights", lambda name: made.append(name) or {})
    for _ in range(2):
        assert backbones.weights_file("resnet18", tmp_path / "new").is_file()
    assert made == ["resnet18"]
    found = {"worst_ratio": 0.5, "refused": ["resnet18, trainable=all"], "accepted": {}, "replay": {}}
    monkeypatch.setattr(check, "measure", lambda **_: found)
    for arguments, code in ((["--backbones", str(tmp_path)], 1), ([], 0)):
        monkeypatch.setattr(sys, "argv", ["check_sensitivity.py", *arguments])
        assert check.main() == code
