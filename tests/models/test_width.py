"""One number for the size of any model, and the sweep of it with every recipe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from support import order
from torch import nn

from dptrain.assembly.build import build
from dptrain.assembly.network import make_network
from dptrain.cli.files import folder
from dptrain.config import Config, parse
from dptrain.contracts import DoesNotApply
from dptrain.models import scatter
from dptrain.models.cnn import SmallCNN
from dptrain.models.mlp import Logistic, Mlp
from dptrain.models.scatter import ScatterLinear
from dptrain.models.whitening import Whitening
from dptrain.models.wide_resnet import WideResNet
from dptrain.tasks import task_of

SWEEP = yaml.safe_load((folder("conf") / "sweep" / "model_size.yaml").read_text())
WIDTHS = [float(each) for each in SWEEP["hydra"]["sweeper"]["params"]["model.width"].split(",")]
RECIPES = sorted(path.stem for path in folder("recipes").glob("*.yaml"))
PRETRAINED = [name for name in RECIPES if name.endswith("_pretrained")]  # whose weights are read first


def size(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters() if each.requires_grad)


@pytest.mark.parametrize("recipe", sorted({*RECIPES} - {*PRETRAINED}))
def test_the_sweep_of_sizes_goes_with_every_recipe(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def whitening(features: nn.Module, images: Any, *, components: int, power: float) -> Whitening:  # noqa: ARG001
        width = features(images[:1]).numel()
        return Whitening(torch.zeros(width), torch.zeros(1, 1).expand(width, components))

    monkeypatch.setattr(Whitening, "of", whitening)  # which takes minutes
    monkeypatch.setattr(scatter, "IMAGES", dict.fromkeys(scatter.IMAGES, _few))
    asked = order("+sweep=model_size", recipe=recipe)
    shape, classes = _declared(parse(asked.config))
    if asked.config["model"]["_target_"].endswith(".Logistic"):
        for width in {*WIDTHS} - {1}:
            with pytest.raises(DoesNotApply, match=rf"model\.width={width}: .*; "):
                make_network(
                    {**asked.config["model"], "width": width}, seed=0, shape=shape, num_classes=classes
                )
        return
    sizes = []
    for width in WIDTHS:
        node = {**asked.config["model"], "width": width}
        model = make_network(node, seed=0, shape=shape, num_classes=classes)
        assert model(torch.zeros(2, *shape)).shape == (2, classes)
        sizes.append(size(model))
    assert sizes[0] < sizes[1] < sizes[2]


def test_a_pretrained_network_is_as_wide_as_its_weights() -> None:
    node = order(recipe="medical_pretrained").config["model"]
    small = {"name": "test_resnet", "weights": None, "sha256": None, "features": "pooled", "size": 32}
    with pytest.raises(DoesNotApply, match=r"model\.width=2.*model\.trainable"):
        make_network({**node, **small, "width": 2}, seed=0, shape=(1, 28, 28), num_classes=2)


def _declared(config: Config) -> tuple[tuple[int, ...], int]:
    """The shape of a record and the number of classes, of files that are not at hand too."""
    source = build("data", config.data)
    if hasattr(source, "declare"):
        splits = source.declare(40)
        return splits.train.shapes, task_of(splits).outputs[-1]
    return ((3, 32, 32), 10) if len(config.data.get("mean", "1")) == 3 else ((1, 28, 28), 10)


def _few(count: int, shape: Any) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(min(count, 32), *shape, generator=rng)


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda **how: SmallCNN((1, 12, 12), 3, **how), lambda w: [round(4 * w) * 4, round(8 * w) * 4]),
        (lambda **how: Mlp((6,), 3, widths=(20, 10), **how), lambda w: [round(20 * w), round(10 * w)]),
        (lambda **how: WideResNet((3, 8, 8), 3, depth=10, **how), lambda w: [16 * round(4 * w)]),
    ],
)
@pytest.mark.parametrize("width", [0.25, 0.5, 1, 2.5])
def test_width_multiplies_channels_or_units(make: Any, wanted: Any, width: float) -> None:
    model = make(width=width)
    found = {each.weight.shape[0] for each in model.modules() if isinstance(each, nn.Linear | nn.Conv2d)}
    assert {each for each in wanted(width) if each} <= found


def test_depth_repeats_layers_and_changes_no_shape() -> None:
    for make in (
        lambda depth: SmallCNN((1, 28, 28), 3, depth=depth),
        lambda depth: Mlp((784,), 3, depth=depth),
    ):
        one, three = make(1), make(3)
        assert one(torch.rand(2, 1, 28, 28)).shape == three(torch.rand(2, 1, 28, 28)).shape == (2, 3)
        layers = [
            sum(isinstance(each, nn.Conv2d | nn.Linear) for each in model.features) for model in (one, three)
        ]
        assert layers[1] == 3 * layers[0]


def test_a_linear_head_sees_more_or_fewer_of_the_coefficients() -> None:
    seen = [ScatterLinear((1, 8, 8), 2, width=width).head[1].in_features for width in (0.5, 1, 2)]
    assert seen == [25 * 4, 81 * 4, 289 * 4]
    some = [
        ScatterLinear((1, 8, 8), 2, components=30, width=width).head[1].in_features
        for width in (0.5, 1, 2, 99)
    ]
    assert some == [15, 30, 60, 324]


def test_logistic_regression_has_no_width() -> None:
    assert size(Logistic((6,), 3, width=1)) == size(Logistic((6,), 3)) == 21
    with pytest.raises(DoesNotApply, match=r"model\.width=2: logistic regression has no layer"):
        Logistic((6,), 3, width=2)
