"""Every classification model of torchvision, with a fresh head."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models import SwinTransformer

from dptrain.contracts import ConfigError
from dptrain.contracts.ranges import Count, Positive
from dptrain.models.pretrained.backbone import Backbone, Trainable, behead, check_images, with_head
from dptrain.models.pretrained.stages import POOLED
from dptrain.models.pretrained.weights import DEFAULT, Origin, file_hash, load, read_weights, refuse_declared


def torchvision_model(
    shape: Sequence[int],
    num_classes: int,
    *,
    name: str,
    weights: str | None = None,
    sha256: str | None = None,
    trained_on: str | None = None,
    trainable: Trainable = "head",
    size: Count | None = None,
    features: str | Sequence[str] = POOLED,
    normalise_features: bool = False,
    width: Positive = 1,
) -> nn.Module:
    """The classification model of this name, from images `shape` (C, H, W) to logits (N, num_classes).

    `weights` is a file, DEFAULT (torchvision's own, downloaded into its cache) or None (random). Raises
    ConfigError.
    """
    _, rows, columns = check_images(name, shape)
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        close = ", ".join(get_close_matches(name, known, n=3)) or "resnet18, densenet121, vit_b_16"
        raise ConfigError(
            f"model.name={name} is no classification model of torchvision; did you mean {close}?"
        )
    side = size or rows
    if "vit_" in name and size is None and rows != columns:
        raise ConfigError(f"model.name={name} takes square images; set model.size, such as 224")
    published = torchvision.models.get_model_weights(name).DEFAULT
    network = torchvision.models.get_model(name, weights=None, **_arguments(name, side, weights))
    if isinstance(network, torchvision.models.SqueezeNet):  # whose classifier is a convolution, then a mean
        network.classifier, head = nn.AdaptiveAvgPool2d(1), "classifier"
    else:
        head = behead(network)
    origin = None
    if weights is None:
        refuse_declared(sha256=sha256, trained_on=trained_on)
    else:
        path = Path(weights).expanduser()
        if weights == DEFAULT:
            path = _downloaded(published)
            trained_on = trained_on or _trained_on(published.name)
        digest = file_hash(path, sha256, published=weights == DEFAULT)
        load(network, read_weights(path), path=path, name=name, head=[head])
        origin = Origin(name=name, trained_on=trained_on, sha256=digest)
    transforms = published.transforms()
    return with_head(
        Backbone(
            network=network,
            mean=transforms.mean,
            std=transforms.std,
            channels_last=isinstance(network, SwinTransformer),
            origin=origin,
        ),
        shape,
        num_classes,
        trainable=trainable,
        size=size,
        features=features,
        normalise_features=normalise_features,
        width=width,
    )


def _arguments(name: str, side: int, weights: str | None) -> dict[str, Any]:
    """What the constructors of some need beside their number of classes."""
    if name.startswith("vit_"):
        return {"image_size": side}
    if name.startswith("maxvit"):
        return {"input_size": (side, side)}
    if name in ("inception_v3", "googlenet"):
        return {"aux_logits": False, "init_weights": weights is None, "transform_input": weights is not None}
    return {}


def _trained_on(published: str) -> str:
    """What torchvision's own weights of this name were trained on.

    >>> _trained_on("IMAGENET1K_SWAG_E2E_V1")
    'Instagram pictures (SWAG), then ImageNet-1k, as torchvision says of its weights IMAGENET1K_SWAG_E2E_V1'
    """
    known = "Instagram pictures (SWAG), then ImageNet-1k" if "SWAG" in published else "ImageNet-1k"
    return f"{known}, as torchvision says of its weights {published}"


def _downloaded(published: Any) -> Path:
    """The file of torchvision's own weights, from the cache of torch.hub, into which it downloads them."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / published.url.rpartition("/")[2]
    if not path.is_file():
        try:
            published.get_state_dict(progress=False, check_hash=True)
        except Exception as error:
            raise ConfigError(
                f"model.weights=DEFAULT: {published.url} cannot be had ({type(error).__name__}); download it "
                f"elsewhere and give it as model.weights=PATH, or put it at {path}"
            ) from error
    return path
