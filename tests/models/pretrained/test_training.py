"""Pre-trained networks under DP-SGD: the engine's sums, what stays as it is, and what a run says of them."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from support import QUICK
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import dptrain
from dptrain.contracts import ConfigError
from dptrain.contracts.layers import FrozenBatchNorm
from dptrain.models.frozen import FrozenFeatures
from dptrain.models.pretrained.hf_image import hf_image_model
from dptrain.models.pretrained.timm import timm_model
from dptrain.models.pretrained.torchvision import torchvision_model
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.clipping import MARGIN, MARGIN_A_RECORD
from dptrain.privacy.dpsgd import DPSGDEngine
from dptrain.privacy.layers import check_layers

pytestmark = pytest.mark.run

SHAPE, CLASSES, BATCH = (3, 32, 32), 3, 4
TRAINABLE = ("head", "bias", "norm", "last_block", "all")
# Residual blocks with BatchNorm, depthwise convolutions and activations within BatchNorm, attention.
KINDS = {"test_resnet": {}, "test_efficientnet": {}, "test_vit": {"img_size": 32}}


@pytest.fixture(scope="module", params=KINDS)
def named(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A network of timm, and weights of it whose BatchNorm has seen something."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(3)
    network = timm.create_model(request.param, num_classes=7, **KINDS[request.param]).train()
    with torch.no_grad():
        network(torch.rand(8, *SHAPE))
        for parameter in network.parameters():  # some begin at zero, which hides what lies before them
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(network.state_dict(), path)
    return request.param, path


def sums(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The clipped sum of the engine, and that of a loop over single records; half of them are clipped."""
    trained = [each for each in model.parameters() if each.requires_grad]
    rows = []
    for one in range(len(images)):
        loss = cross_entropy(model(images[one : one + 1]), labels[one : one + 1])
        found = torch.autograd.grad(loss, trained, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    (torch.zeros_like(each) if g is None else g).flatten()
                    for g, each in zip(found, trained, strict=True)
                ]
            )
        )
    gradients = torch.stack(rows)
    limit = float(gradients.norm(dim=1).median())
    wanted = (gradients * (limit / gradients.norm(dim=1, keepdim=True)).clamp(max=1)).sum(0)
    plan = DPSGDPlan(
        units=BATCH,
        sample_rate=1.0,
        steps=1,
        expected_batch_size=BATCH,
        max_grad_norm=limit / (1 - MARGIN - BATCH * MARGIN_A_RECORD),
        noise_multiplier=0.0,
    )
    engine = DPSGDEngine(
        "bookkeeping",
        model,
        torch.optim.SGD(trained, lr=0.1),
        plan,
        loss=partial(cross_entropy, reduction="none"),
        generator=torch.Generator().manual_seed(0),
    )
    engine.accumulate(images, labels)
    found = engine.total()
    engine.update()
    return found, wanted


@pytest.mark.parametrize("trainable", TRAINABLE)
def test_a_step_is_that_of_single_records_and_changes_nothing_else(named, trainable, rng) -> None:
    name, path = named
    made = timm_model(SHAPE, CLASSES, name=name, weights=str(path), trainable=trainable)
    model = check_layers(made, replace_batch_norm=False).double()
    assert model.training
    before = copy.deepcopy(model)
    images = torch.rand(BATCH, *SHAPE, generator=rng).double()
    found, wanted = sums(model, images, torch.arange(BATCH) % CLASSES)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()))
    trained = {key for key, each in before.named_parameters() if each.requires_grad}
    assert {key.partition(".")[0] for key in trained} >= {"head"}
    for key, value in before.state_dict().items():
        assert key in trained or torch.equal(model.state_dict()[key], value), key
    moved = [key for key in trained if not torch.equal(model.state_dict()[key], before.state_dict()[key])]
    assert len(moved) == len(trained)
    if trainable == "norm":
        norms = [each for each in model.modules() if isinstance(each, FrozenBatchNorm)]
        assert all(each.weight.requires_grad for each in norms)
        assert len(norms) > 4 or name == "test_vit"


def test_what_comes_before_the_last_block_is_frozen_where_the_network_can_be_cut(tmp_path) -> None:
    torch.save(torchvision.models.resnet18(num_classes=2).state_dict(), tmp_path / "weights.pt")
    make = partial(torchvision_model, SHAPE, CLASSES, name="resnet18", weights=str(tmp_path / "weights.pt"))
    torch.manual_seed(5)
    last = make(trainable="last_block")
    torch.manual_seed(5)
    whole = make(trainable="all")
    assert isinstance(last, FrozenFeatures)
    assert not any(each.requires_grad for each in last.features.parameters())
    assert all(each.requires_grad for each in last.head.parameters())
    torch.manual_seed(6)
    images = torch.rand(70, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(last.train()(images), whole.train()(images))


def test_without_weights_group_norm_stands_for_batch_norm_and_nothing_is_random(rng) -> None:
    images = torch.rand(2, *SHAPE, generator=rng)
    for name in ("efficientnet_b0", "mobilenet_v3_small"):
        model = torchvision_model(SHAPE, CLASSES, name=name, trainable="all").train()
        kinds = {type(each) for each in model.modules()}
        assert nn.GroupNorm in kinds
        assert not kinds & {nn.BatchNorm2d, FrozenBatchNorm}
        assert torch.equal(model(images), model(images))


def vit(folder: Path) -> Path:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48, image_size=32,
        patch_size=8,
    )  # fmt: skip
    config.num_labels = 9
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    constants = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(constants))
    return folder


@pytest.mark.parametrize("trainable", TRAINABLE)
def test_a_folder_of_transformers_trains_likewise(trainable, tmp_path, rng) -> None:
    made = hf_image_model(SHAPE, CLASSES, name=str(vit(tmp_path)), trainable=trainable)
    model = check_layers(made, replace_batch_norm=False).double()
    images = torch.rand(BATCH, *SHAPE, generator=rng).double()
    found, wanted = sums(model, images, torch.arange(BATCH) % CLASSES)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()))


def test_of_a_folder_only_the_head_may_be_missing_and_nothing_is_drawn(tmp_path, rng) -> None:
    from safetensors.torch import load_file, save_file

    file, settings = vit(tmp_path) / "model.safetensors", tmp_path / "config.json"
    held = load_file(file)
    kept = {key: each.half() for key, each in held.items() if not key.startswith("classifier.")}
    save_file(kept, file, {"format": "pt"})
    drawn = {"attention_probs_dropout_prob": 0.5, "hidden_dropout_prob": 0.5, "dtype": "float16"}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | drawn))
    model = hf_image_model(SHAPE, CLASSES, name=str(tmp_path), trainable="all").train()
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    images = torch.rand(2, *SHAPE, generator=rng)
    assert torch.equal(model(images), model(images))
    norm = next(key for key in kept if key.endswith("layernorm_after.weight"))
    for broken in ({}, {norm: torch.ones(5)}):
        others = {key: each for key, each in kept.items() if key != norm}
        save_file(others | broken, file, {"format": "pt"})
        with pytest.raises(ConfigError, match=r"has no `[\w.]+layernorm_after.weight` of the shape"):
            hf_image_model(SHAPE, CLASSES, name=str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(
        ConfigError, match=r"cannot be read as an image classifier of transformers \(KeyError"
    ):
        hf_image_model(SHAPE, CLASSES, name=str(tmp_path))


@pytest.mark.parametrize("trainable", ["head", "norm"])
def test_a_run_says_whose_weights_it_began_with(trainable, tmp_path) -> None:
    import timm

    weights = tmp_path / "public.pt"
    torch.save({"state_dict": timm.create_model("test_resnet", num_classes=2).state_dict()}, weights)
    said = () if trainable == "norm" else ("model.trained_on=drawn shapes",)
    words = (*QUICK, "tracking=none", "attack=[]", "control.enabled=false", "performance.threads=1")
    report = dptrain.run(
        "quickstart", *words, "model=timm", "model.name=test_resnet", f"model.weights={weights}",
        "model.size=32", f"model.trainable={trainable}", *said, output=tmp_path,
    )  # fmt: skip
    statement = json.loads((report.folder / "statement.json").read_text())
    (stated,) = statement["public_data"]
    assert "the initial weights of test_resnet (SHA-256 " in stated
    expected = "pre-trained on drawn shapes" if said else "not declared what they were trained on"
    assert expected in stated
    assert "is not excluded" in stated
    assert statement["constants"]["mean"] is None
    assert "mean, standard deviation" not in (report.folder / "report.md").read_text()
