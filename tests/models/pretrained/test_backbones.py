"""Pre-trained networks with a fresh head: what reaches them, what is trained, what is frozen."""

from __future__ import annotations

import hashlib
import math
from functools import partial
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn

from dptrain.contracts import ConfigError
from dptrain.models.frozen import split
from dptrain.models.normalise import Normalise
from dptrain.models.pretrained.stages import Stages
from dptrain.models.pretrained.timm import timm_model
from dptrain.models.pretrained.torchvision import torchvision_model
from dptrain.models.pretrained.trained import last_block

SHAPE = (1, 32, 32)
IMAGENET = torchvision.models.ResNet18_Weights.DEFAULT.transforms()


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """A ResNet-18 whose BatchNorm has seen something, of 7 classes."""
    torch.manual_seed(3)
    network = torchvision.models.resnet18(num_classes=7).train()
    with torch.no_grad():
        network(torch.rand(8, 3, 32, 32) * 2)
    return network.eval()


@pytest.fixture(scope="module")
def file(resnet: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(resnet.state_dict(), path)
    return path


def test_a_backbone_sees_images_as_it_was_trained_with_them(resnet, file, rng) -> None:
    model = torchvision_model(SHAPE, 3, name="resnet18", weights=str(file), size=64)
    assert model.own_normalisation
    images = torch.rand(5, *SHAPE, generator=rng)
    resized = nn.functional.interpolate(images, size=(64, 64), mode="bilinear")
    normalise = Normalise(tuple(IMAGENET.mean), tuple(IMAGENET.std))
    network = nn.Sequential(*list(resnet.children())[:-1], nn.Flatten())
    expected = network(normalise(resized.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(model.features(images), expected)
    assert model(images).shape == (5, 3)


def test_all_but_the_head_is_frozen_and_made_once(file) -> None:
    model = nn.Sequential(
        Normalise((0.0,), (1.0,)), torchvision_model(SHAPE, 3, name="resnet18", weights=str(file))
    )
    parts = split(model)
    assert parts is not None
    assert sum(each.requires_grad for each in model.parameters()) == 2
    assert isinstance(parts[1], nn.Linear)


def test_images_that_no_backbone_takes_and_names_that_there_are_not_are_told() -> None:
    for make, name in ((torchvision_model, "resnet18"), (timm_model, "test_resnet")):
        with pytest.raises(ConfigError, match=f"model.name={name} takes images of 1 or 3 channels, not of 4"):
            make((4, 32, 32), 3, name=name)
        with pytest.raises(ConfigError, match="takes images, and these records are none"):
            make((30,), 3, name=name)
    with pytest.raises(ConfigError, match="did you mean resnet18"):
        torchvision_model(SHAPE, 3, name="resnet-18")
    with pytest.raises(ConfigError, match="did you mean test_vit"):
        timm_model(SHAPE, 3, name="test_vitt")


def test_weights_of_another_network_or_another_file_are_told(file, tmp_path) -> None:
    make = partial(torchvision_model, SHAPE, 3)
    with pytest.raises(ConfigError, match=r"lacks `layer1.2.conv1.weight`.*more differences"):
        make(name="resnet34", weights=str(file))
    with pytest.raises(ConfigError, match=r"model.sha256=0+, but model.weights=\S+ has [0-9a-f]{64}"):
        make(name="resnet18", weights=str(file), sha256="0" * 64)
    with pytest.raises(ConfigError, match=r"is no file; give a file of weights"):
        make(name="resnet18", weights=str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ConfigError, match="cannot be read"):
        make(name="resnet18", weights=str(tmp_path / "text.pth"))


@pytest.mark.parametrize(
    "make", [partial(torchvision_model, name="resnet18"), partial(timm_model, name="test_resnet")]
)
def test_nothing_is_declared_of_random_weights(make) -> None:
    with pytest.raises(ConfigError, match=r"model.sha256=00, model.trained_on=X tells .* model.weights=null"):
        make(SHAPE, 3, sha256="00", trained_on="X")


@pytest.mark.parametrize("prefix", ["module.", "model.", "module._orig_mod.", "encoder.net."])
def test_what_stands_before_all_names_is_taken_off(resnet, file, tmp_path, prefix) -> None:
    held = {f"{prefix}{name}": value for name, value in resnet.state_dict().items()}
    torch.save({"state_dict": held}, tmp_path / "wrapped.pth")
    same, other = (
        torchvision_model(SHAPE, 3, name="resnet18", weights=str(path)).features
        for path in (file, tmp_path / "wrapped.pth")
    )
    images = torch.ones(1, *SHAPE)
    assert torch.equal(same(images), other(images))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weights_that_are_no_numbers_are_told(resnet, tmp_path) -> None:
    held = resnet.state_dict()
    wrong = {
        "is torch.int8": held["conv1.weight"].to(torch.int8),
        "is not finite": torch.full_like(held["conv1.weight"], math.nan),
        "is sparse": held["conv1.weight"].to_sparse(),
    }
    for said, value in wrong.items():
        torch.save({**held, "conv1.weight": value}, tmp_path / "wrong.pth")
        with pytest.raises(ConfigError, match=rf"model.weights=\S+ does not fit: `conv1.weight` {said}"):
            torchvision_model(SHAPE, 3, name="resnet18", weights=str(tmp_path / "wrong.pth"))


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("googlenet", "inception5b"),
        ("inception_v3", "Mixed_6e"),
        ("maxvit_t", "blocks.3.layers.1"),
        ("convnext_tiny", "features.7.2"),
        ("resnet18", "layer4.1"),
    ],
)
def test_the_last_block_is_a_whole_one(name, block) -> None:
    as_they_are = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None, **as_they_are)
    assert last_block(network)[0] == block


def test_stages_stand_side_by_side_each_normalised(file, rng) -> None:
    features = ["layer1", "layer3", "pooled"]
    model = torchvision_model(
        SHAPE, 3, name="resnet18", weights=str(file), features=features, normalise_features=True
    )
    assert model.head.in_features == 64 + 256 + 512
    made = model.features(torch.rand(4, *SHAPE, generator=rng))
    for stage in made.split([64, 256, 512], dim=1):
        torch.testing.assert_close(stage.mean(1), torch.zeros(4), atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match=r"model.features=\['layer9'\]: layer9 is no module"):
        torchvision_model(SHAPE, 3, name="resnet18", features=["layer9"])
    with pytest.raises(ConfigError, match=r"model.features=\[\] names nothing"):
        torchvision_model(SHAPE, 3, name="resnet18", features=[])
    network = nn.ModuleDict({"used": nn.Linear(2, 2), "never": nn.Linear(2, 2)})
    network.forward = network["used"].forward
    with pytest.raises(ConfigError, match=r"model.features=\['never'\]: never returns nothing"):
        Stages(network, ["never"], channels_last=False, normalised=False)(torch.ones(1, 2))


def test_published_weights_come_from_the_libraries_own_caches(resnet, tmp_path, monkeypatch) -> None:
    import huggingface_hub
    import timm
    from safetensors.torch import save_file

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    published.parent.mkdir(parents=True)
    torch.save(resnet.state_dict(), published)
    with pytest.raises(ConfigError, match=r"not the published file, whose hash begins with f37072fd"):
        torchvision_model(SHAPE, 3, name="resnet18", weights="DEFAULT")
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    published.rename(published.with_name(f"resnet18-{digest[:8]}.pth"))
    with monkeypatch.context() as renamed:
        renamed.setattr(
            torchvision.models.ResNet18_Weights.DEFAULT.value, "url", f"/resnet18-{digest[:8]}.pth"
        )
        model = torchvision_model(SHAPE, 3, name="resnet18", weights="DEFAULT")
    assert model.origin.trained_on == "ImageNet-1k, as torchvision says of its weights IMAGENET1K_V1"
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", _no_network)
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", _no_network)
    with pytest.raises(ConfigError, match=r"resnet18-f37072fd.pth cannot be had \(URLError\).*or put it at"):
        torchvision_model(SHAPE, 3, name="resnet18", weights="DEFAULT")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"timm/test_resnet.r160_in1k cannot be had"):
        timm_model(SHAPE, 3, name="test_resnet", weights="DEFAULT")
    kept = tmp_path / "models--timm--test_resnet.r160_in1k"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    (kept / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(
        timm.create_model("test_resnet").state_dict(), kept / "snapshots" / ("0" * 40) / "model.safetensors"
    )
    model = timm_model(SHAPE, 3, name="test_resnet", weights="DEFAULT")
    assert model.origin.trained_on == "what timm's tag r160_in1k says"


def _no_network(*_: object, **__: object) -> None:
    raise URLError("no network")
