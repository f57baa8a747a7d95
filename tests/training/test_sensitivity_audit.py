"""The audit of single contributions: it changes nothing, and sees what is broken on purpose."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from dptrain.contracts import BrokenGuarantee, Canaries, Streams
from dptrain.mechanisms import dpsgd as dpsgd_mechanism
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.models.frozen import FrozenFeatures
from dptrain.privacy import dpsgd, noisy
from dptrain.privacy.agreement import Chosen
from dptrain.privacy.bookkeeping import shares
from dptrain.privacy.clipping import KINDS, Clipper
from dptrain.privacy.dpsgd import ENGINES
from dptrain.privacy.gradients import ByRules
from dptrain.training import fit as fitting
from dptrain.training import sensitivity_audit
from dptrain.training.augment import Augmentation

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from mixing_models import MIXING, REMEMBERING

pytestmark = pytest.mark.run

BATCH = {"rates": {"expected_batch_size": 20, "steps": 4}}


@pytest.fixture
def fit(splits, budget, context_of, settings_of):
    """A training with the tests of the model switched off, so that the audit stands alone."""

    def run(model, *, context=None, settings=None, by_rules=False, **changes):
        with pytest.MonkeyPatch.context() as patch:
            if by_rules:  # whatever a comparison with plain autograd says of them
                patch.setattr(fitting, "choose", lambda *_, **__: Chosen(make=ByRules))
            patch.setattr(dpsgd_mechanism, "refuse_dependence", lambda *_: None)
            patch.setattr(dpsgd_mechanism, "refuse_dependent_release", lambda *_, **__: None)
            mechanism = DPSGD(settings=settings_of(**(settings or BATCH)), **changes)
            return mechanism.fit(model, splits, budget, context or context_of())

    return run


class Flat(nn.Module):
    """A model of eight numbers, given images."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner(images.flatten(2).mean(1).unflatten(1, (8, 8)).mean(1))


@pytest.mark.parametrize("clipping", KINDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_honest_training_holds(cnn, fit, engine, clipping):
    _, guarantee = fit(cnn, engine=engine, clipping=clipping, max_grad_norm=0.1)
    sensitivity = guarantee.statement().sensitivity
    assert sensitivity.audit == "held"
    assert 0.9 < sensitivity.ratio <= 1.0
    assert (sensitivity.most, sensitivity.records) == (0.1, 1)


class Dropped(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


def frozen():
    features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten())
    return FrozenFeatures(features, nn.Linear(144, 3))


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (Dropped, {}),
        (frozen, {"feature_cache_gib": 1.0}),
        (frozen, {}),
        (None, {"augmentation": Augmentation(copies=3, shift=2, flip=True), "physical_batch_size": 9}),
        (None, {"physical_batch_size": 3}),
        (None, {"average_decay": 0.9, "schedule": "cosine"}),
    ],
)
def test_nothing_of_the_training_changes(model, settings, models, fit, context_of, flat):
    """Bit for bit the same weights, with canaries and probes, whether it is audited or not."""
    make = model or models["cnn"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = make()
    canaries = Canaries(coordinates=torch.tensor([0, 5, 7]), norm=3.0)
    context = context_of(canaries=canaries, probed=(1, 2, 3, 4, 5, 6, 7, 8, 9))
    found = [
        fit(copy.deepcopy(start), context=context, settings={**BATCH, **settings}, audit_sensitivity=audited)
        for audited in (True, False)
    ]
    assert torch.equal(*(flat(release.weights) for release, _ in found))
    assert [guarantee.statement().sensitivity.audit for _, guarantee in found] == ["held", None]


# Of the models that mix, those whose mixing shows without random draws, and for these records.
UNSEEN = {"mixup by rank", "only when not finite", "weakly centred"}


@pytest.mark.parametrize("name", [name for name in MIXING if name not in UNSEEN])
def test_a_model_that_mixes_is_caught_by_itself(fit, name):
    with pytest.raises(
        BrokenGuarantee, match="what units add together is not the sum of what each adds alone"
    ):
        fit(Flat(MIXING[name]()), by_rules=True)


def no_double(model):  # noqa: ARG001
    raise TypeError("there is no double precision")


@pytest.mark.parametrize("name", [name for name in MIXING if name not in {*UNSEEN, "repeats counted"}])
def test_without_double_precision_too(fit, monkeypatch, name):
    monkeypatch.setattr(sensitivity_audit, "in_double", no_double)
    with pytest.raises(
        BrokenGuarantee, match="what units add together is not the sum of what each adds alone"
    ):
        fit(Flat(MIXING[name]()), by_rules=True)


SEEN = {  # what is set by the first batch alone is set before, if the audit looks later
    "bank": "remembers",
    "average": "together|remembers",
    "object": "remembers",
    "class": "remembers",
    "max_norm": "remembers",
    "functional max_norm": "remembers",
}


@pytest.mark.parametrize("name", SEEN)
def test_a_model_that_remembers_is_caught_by_itself(fit, name):
    model = REMEMBERING[name][0]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0)
    with pytest.raises(BrokenGuarantee, match=SEEN[name]):
        fit(Flat(model), by_rules=True)


def broken(monkeypatch, kind):
    """Break the engine in one of the ways that engines break."""
    accumulate, add = dpsgd.DPSGDEngine.accumulate, noisy.NoisySum.add
    if kind == "clipping skipped for a class":

        def skipping(self, inputs, labels, copies=1):
            kept = self.optimizer.clipper
            total = accumulate(self, inputs[labels != 1], labels[labels != 1], copies)
            self.optimizer.clipper = replace(kept, max_grad_norm=1e6)
            total = total + accumulate(self, inputs[labels == 1], labels[labels == 1], copies)
            self.optimizer.clipper = kept
            return total

        monkeypatch.setattr(dpsgd.DPSGDEngine, "accumulate", skipping)
    elif kind == "a norm too small":
        factors = Clipper.factors
        monkeypatch.setattr(Clipper, "factors", lambda self, norms: factors(self, norms * 0.9))
    elif kind == "a norm too small, of one layer":
        norms = shares.Kept.__init__

        def shorter(self, **values):
            norms(self, **{**values, "norms": values["norms"] * 0.3})

        monkeypatch.setattr(shares.Kept, "__init__", shorter)
    elif kind == "small batches scaled":

        def scaled(self, sums):
            add(self, [total * (1.0 if self.params[0].summed_grad is None else 1.5) for total in sums])

        monkeypatch.setattr(noisy.NoisySum, "add", scaled)
    elif kind == "batches averaged":

        def averaged(self, inputs, labels, copies=1):
            before = [p.summed_grad for p in self.optimizer.params]
            loss = accumulate(self, inputs, labels, copies)
            for parameter, held in zip(self.optimizer.params, before, strict=True):
                mean = (parameter.summed_grad - (0 if held is None else held)) / len(labels)
                parameter.summed_grad = mean if held is None else held + mean
            return loss

        monkeypatch.setattr(dpsgd.DPSGDEngine, "accumulate", averaged)
    elif kind == "clipped as a batch":

        def together(self, sums):
            sums = list(sums)
            length = torch.cat([total.flatten() for total in sums]).norm()
            add(self, [total * (self.max_grad_norm / length).clamp(max=0.99) for total in sums])

        monkeypatch.setattr(Clipper, "factors", lambda _, norms: torch.ones_like(norms))
        monkeypatch.setattr(noisy.NoisySum, "add", together)
    else:
        assert kind == "copies clipped each"

        def apart(self, inputs, labels, copies=1):  # noqa: ARG001
            return accumulate(self, inputs, labels, 1)

        monkeypatch.setattr(dpsgd.DPSGDEngine, "accumulate", apart)


@pytest.mark.parametrize(
    "kind",
    [
        "clipping skipped for a class",
        "a norm too small",
        "a norm too small, of one layer",
        "small batches scaled",
        "batches averaged",
        "clipped as a batch",
        "copies clipped each",
    ],
)
def test_what_is_broken_on_purpose_is_caught(models, fit, monkeypatch, kind):
    broken(monkeypatch, kind)
    settings = dict(BATCH)
    if kind == "copies clipped each":
        settings["augmentation"] = Augmentation(copies=4, shift=1)
    with pytest.raises(BrokenGuarantee, match=r"audit_sensitivity: BROKEN at step \d"):
        fit(models["mlp"](), settings=settings, by_rules=True, max_grad_norm=0.1)


def test_steps_and_units_cannot_be_foretold(make_plan_of):
    plan = make_plan_of(steps=1000)

    def steps(streams):
        key = streams.secret("audit")
        return sensitivity_audit.SensitivityAudit(plan, None, size=8, key=key, folder=None).steps

    assert len(steps(Streams(3))) == 3
    assert steps(Streams(3)) != steps(Streams(3))
    assert steps(Streams(3, deterministic=True)) == steps(Streams(3, deterministic=True))


def test_what_was_measured_on_records_stays_in_the_owners_file(models, fit, context_of, folder, recorder):
    _, guarantee = fit(models["mlp"](), context=context_of(folder=folder, tracker=recorder))
    path = folder / sensitivity_audit.FILE
    assert path.stat().st_mode & 0o077 == 0
    kept = json.loads(path.read_text())
    (step,) = kept["of_records"]
    assert kept["audit"] == "held"
    assert 0.0 < kept["of_records"][step]["longest_over_claim"] <= 1.0
    assert guarantee.statement().sensitivity.ratio == kept["of_rows_that_are_no_record"]
    assert {name for name, _, _ in recorder.metrics} == {"holdout/accuracy", "holdout/loss"}


def test_a_broken_run_stays_broken(models, fit, context_of, folder):
    with pytest.MonkeyPatch.context() as patch:
        broken(patch, "a norm too small")
        with pytest.raises(BrokenGuarantee, match="BROKEN at step"):
            fit(models["mlp"](), context=context_of(folder=folder), max_grad_norm=0.1)
    with pytest.raises(BrokenGuarantee, match="its audit of sensitivity was BROKEN"):
        fit(models["mlp"](), context=context_of(folder=folder), max_grad_norm=0.1)


def test_a_resumed_run_has_the_audit_of_the_whole(models, fit, context_of, folder, monkeypatch):
    looks = []
    look = sensitivity_audit.SensitivityAudit.look

    def first_only(self, step, *rest):
        looks.append(step)
        look(self, step, *rest)

    monkeypatch.setattr(sensitivity_audit.SensitivityAudit, "look", first_only)
    context = context_of(folder=folder)
    fit(models["mlp"](), context=context)
    _, guarantee = fit(models["mlp"](), context=context)  # from its last checkpoint: no step is left
    assert len(looks) == 1
    assert guarantee.statement().sensitivity.audit == "held"


class Kinked(nn.Module):
    """Rounding decides which of two equal values is the larger."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 3)

    def forward(self, images):
        made = self.layer(images.flatten(1))
        return made + (1e-3 if len(images) % 2 and made.dtype == torch.float32 else 0.0)


def test_rounding_alone_is_no_alarm(fit):
    fit(Kinked(), max_grad_norm=0.1)


class Chaotic(nn.Module):
    """What it makes of large inputs depends on the last digits of weights, as on how sums are rounded."""

    def __init__(self, size):
        super().__init__()
        self.layer, self.size = nn.Linear(64, 3), size

    def forward(self, images):
        rows = images.flatten(1)
        large = rows.abs().amax(1, keepdim=True) > self.size
        digits = 1e8 * self.layer.weight.detach().double().abs().sum() + len(rows)
        waves = torch.sin(digits * torch.tensor([1.0, 1.7, 2.3], dtype=torch.float64))
        return self.layer(rows) * torch.where(large, waves, 1.0).float()


@pytest.mark.parametrize(("size", "most"), [(4.0, "few"), (0.0, "all")])
def test_rounding_that_decides_what_extreme_rows_add_is_no_alarm(fit, monkeypatch, size, most):
    """Where single precision is all there is; but a model that is nothing else is not passed."""
    monkeypatch.setattr(sensitivity_audit, "in_double", no_double)
    torch.manual_seed(3)
    if most == "few":
        fit(Chaotic(size), by_rules=True)
    else:
        with pytest.raises(BrokenGuarantee, match="together is not the sum"):
            fit(Chaotic(size), by_rules=True)


def test_weights_are_as_they_were_after_they_were_rounded_otherwise(cnn):
    before = copy.deepcopy(cnn.state_dict())
    with sensitivity_audit.rounded_otherwise(cnn):
        off = [(each - before[name]).abs() / before[name].abs() for name, each in cnn.named_parameters()]
    assert all(0 < each.max() <= 2.5e-7 for each in off if not each.isnan().any())
    assert all(torch.equal(each, before[name]) for name, each in cnn.state_dict().items())


def test_a_training_that_claims_nothing_is_not_audited(mlp, splits, settings_of, context_of, budget):
    _, nothing = NonPrivate(settings=settings_of()).fit(mlp, splits, budget, context_of())
    assert nothing.statement().sensitivity is None


def test_double_precision_is_left_as_it_was_found(cnn):
    before = [(parameter, parameter.data_ptr()) for parameter in cnn.parameters()]
    within = []

    def fail():
        with sensitivity_audit.in_double(cnn):
            within.extend(parameter.dtype for parameter in cnn.parameters())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert set(within) == {torch.float64}
    assert [(parameter, parameter.data_ptr()) for parameter in cnn.parameters()] == before
    assert all(parameter.dtype == torch.float32 for parameter in cnn.parameters())


def test_adam_is_audited_too(models, fit):
    optimizer = partial(torch.optim.Adam, lr=0.01)
    fit(models["mlp"](), settings={**BATCH, "optimizer": optimizer})
