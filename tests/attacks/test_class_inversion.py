"""The attack shows what a model knows of its classes, and nothing where it knows nothing."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from dptrain.attacks.class_inversion import ClassInversion
from dptrain.contracts import Access, Images, Records, Release, Splits, Targets
from dptrain.evaluation.games.class_inversion.evaluator import train_evaluator

pytestmark = pytest.mark.run

QUICK = ClassInversion(restarts=3, keep=2, steps=8, trials=3)


def release(architecture, *, records: Records | None = None, steps: int = 400) -> Release:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = architecture()
        if records is not None:
            optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
            for _ in range(steps):
                chosen = torch.randint(len(records), (64,))
                loss = F.cross_entropy(model(records.inputs[chosen]), records.labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return Release(architecture=architecture, weights=model.state_dict())


def targets(shape: tuple[int, ...], classes: int, *, bounds=(0.0, 1.0), mean=(0.4,)) -> Targets:
    nobody = Records(torch.zeros(0, *shape), torch.zeros(0, dtype=torch.int64))
    names = tuple(str(c) for c in range(classes))
    return Targets(classes=names, shape=shape, bounds=bounds, mean=mean, background=nobody)


def test_a_model_without_privacy_shows_its_classes():
    inputs, labels = load_digits(return_X_y=True)
    records = Records(torch.tensor(inputs, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels))
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(0))
    splits = Splits(
        name="digits",
        source="scikit-learn",
        train=records.take(order[:700]),
        holdout=records.take(order[700:1400]),
        test=records.take(order[1400:]),
        classes=tuple("0123456789"),
        bounds=(0.0, 1.0),
        mean=(0.3,),
        std=(0.4,),
    )
    public = targets(splits.shape, 10, mean=splits.mean)

    def architecture() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.GroupNorm(4, 16),
            nn.Tanh(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.GroupNorm(4, 32),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 10),
        )

    rng = torch.Generator().manual_seed(1)
    judge = train_evaluator(splits, rng)
    attack = ClassInversion(steps=100)

    def accuracy(found: Images) -> float:
        return float((judge.classify(found.inputs) == found.labels).double().mean())

    control = accuracy(attack.run(release(architecture, records=splits.train), public, rng))
    floor = accuracy(attack.run(release(architecture), public, rng))
    assert control > 0.6
    assert floor < 0.35


@pytest.mark.parametrize(
    ("shape", "bounds", "mean"),
    [
        ((1, 9, 12), (0.0, 1.0), (0.4,)),
        ((3, 8, 8), (-1.0, 1.0), (0.0, 0.1, -0.2)),
        ((7,), (-2.0, 3.0), (0.5,)),
        ((7,), (0.0, 1.0), tuple(c / 10 for c in range(7))),
        ((2, 5), (0.0, 1.0), (0.3, 0.6)),
    ],
)
def test_any_input_in_bounds_balanced_and_repeatable(shape, bounds, mean):
    size = torch.Size(shape).numel()
    given = release(lambda: nn.Sequential(nn.Flatten(), nn.Linear(size, 3)))
    public = targets(shape, 3, bounds=bounds, mean=mean)
    one, two, other = (QUICK.run(given, public, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.inputs.shape == (6, *shape)
    assert one.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert one.inputs.min() >= bounds[0]
    assert one.inputs.max() <= bounds[1]
    assert torch.equal(one.inputs, two.inputs)
    assert not torch.equal(one.inputs, other.inputs)


def test_the_climb_finds_the_direction_of_a_linear_model():
    weights = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])

    def architecture() -> nn.Module:
        return nn.Linear(4, 2, bias=False)

    given = Release(architecture=architecture, weights={"weight": weights})
    found = ClassInversion(norm=0.1).run(
        given, targets((4,), 2, mean=(0.5,)), torch.Generator().manual_seed(0)
    )
    expected = torch.tensor([[1.0, 0.0, 0.5, 0.5], [0.0, 1.0, 0.5, 0.5]])
    assert torch.allclose(found.inputs, expected.repeat_interleave(4, dim=0), atol=0.1)


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1e4])
def test_the_size_of_the_logits_does_not_matter(scale):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(36, 3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return scale * self.linear(inputs.flatten(1))

    found = QUICK.run(release(Scaled), targets((1, 6, 6), 3), torch.Generator().manual_seed(0))
    assert torch.isfinite(found.inputs).all()
    assert (found.inputs.std() > 0.05) == (scale > 0)


def test_more_starting_points_than_one_batch(monkeypatch):
    monkeypatch.setattr("dptrain.attacks.class_inversion.BATCH", 4)
    given = release(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    found = QUICK.run(given, targets((1, 4, 4), 3), torch.Generator().manual_seed(0))
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_the_file_says_every_default():
    path = Path(__file__).parents[2] / "conf" / "attack" / "class_inversion.yaml"
    assert path.read_text().startswith("# @package attack.class_inversion\n_target_: ")
    said = yaml.safe_load(path.read_text())
    assert said.pop("_target_") == "dptrain.attacks.class_inversion.ClassInversion"
    assert said == {each.name: getattr(ClassInversion(), each.name) for each in fields(ClassInversion)}
    assert ClassInversion.needs == {Access.WEIGHTS}


class _Saturated(nn.Module):
    """Two classes, and so sure of the first one at any gray image that its loss is flat."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        brightness = 1000 * self.drop(images).mean((1, 2, 3))
        return torch.stack([brightness, -brightness], dim=1)


def test_the_margin_goes_on_where_the_loss_has_saturated() -> None:
    found = {}
    for objective in ("margin", "loss"):
        attack = ClassInversion(
            restarts=1,
            keep=1,
            steps=20,
            trials=1,
            noise=0.0,
            norm=0.0,
            total_variation=0.0,
            objective=objective,
        )
        made = attack.run(release(_Saturated), targets((1, 6, 6), 2), torch.Generator().manual_seed(0))
        found[objective] = float(made.inputs[0].mean())
    assert found["loss"] == pytest.approx(0.4)
    assert found["margin"] > 0.8


def test_a_model_that_draws_is_climbed_under_its_draws_and_alike_from_one_seed() -> None:
    public, made = targets((1, 6, 6), 2), []
    for draws in (False, True, True):
        before = torch.get_rng_state()
        attack = ClassInversion(restarts=1, keep=1, steps=5, trials=1, draws=draws)
        made.append(attack.run(release(_Saturated), public, torch.Generator().manual_seed(0)).inputs)
        assert torch.equal(torch.get_rng_state(), before)
    assert not torch.allclose(made[0], made[1])
    assert torch.equal(made[1], made[2])
