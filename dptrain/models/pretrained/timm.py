"""Every classification model of timm, which the extra `timm` has, with a fresh head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from dptrain.contracts import ConfigError
from dptrain.contracts.ranges import Count, Positive
from dptrain.models.pretrained.backbone import Backbone, Trainable, check_images, with_head
from dptrain.models.pretrained.packaged import PACKAGE, TRAINED_ON, packaged, renamed
from dptrain.models.pretrained.stages import POOLED
from dptrain.models.pretrained.torchvision import DEFAULT
from dptrain.models.pretrained.weights import Origin, file_hash, load, read_weights


def timm_model(
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

    `weights` is a file, DEFAULT (timm's own, downloaded into the cache of Hugging Face), PACKAGE (of the
    extra `pretrained`, of tf_efficientnet_lite0) or None (random).
    Raises ConfigError.
    """
    timm = _timm()
    _, rows, columns = check_images(name, shape)
    if not timm.is_model(name):
        close = ", ".join(get_close_matches(name, timm.list_models(), n=3)) or "resnet18, convnext_atto"
        raise ConfigError(f"model.name={name} is no model of timm; did you mean {close}?")
    published = timm.get_pretrained_cfg(name, allow_unregistered=True).to_dict()
    sides = (size, size) if size else (rows, columns)
    fixed = {"img_size": sides} if published.get("fixed_input_size") else {}
    network = timm.create_model(name, pretrained=False, num_classes=0, **fixed)
    origin = None
    if weights is not None:
        path = packaged(name) if weights == PACKAGE else Path(weights).expanduser()
        if weights == DEFAULT:
            path = _downloaded(published)
            trained_on = trained_on or _trained_on(published)
        digest = file_hash(path, sha256)
        classifiers = published.get("classifier") or ()
        head = [classifiers] if isinstance(classifiers, str) else list(classifiers)
        found = read_weights(path)
        if weights == PACKAGE:
            found, trained_on = renamed(found, network), trained_on or TRAINED_ON
        load(network, found, name=name, head=head)
        origin = Origin(name=name, trained_on=trained_on, sha256=digest)
    return with_head(
        Backbone(
            network=network,
            mean=published["mean"],
            std=published["std"],
            channels_last=getattr(network, "output_fmt", "NCHW") == "NHWC",
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


def _trained_on(published: Mapping[str, Any]) -> str | None:
    """What the tag of timm's own weights says, such as augreg_in21k_ft_in1k."""
    tag = str(published.get("tag") or "")
    if not tag:
        return None
    known = "ImageNet-1k" if tag.endswith("in1k") and "_ft_" not in tag else "what its tag says"
    return f"{known} (timm's tag {tag})"


def _downloaded(published: Mapping[str, Any]) -> Path:
    """The file of timm's own weights, from the cache of Hugging Face, into which they are downloaded."""
    from huggingface_hub import hf_hub_download

    repository = published.get("hf_hub_id")
    if not repository:
        raise ConfigError(
            "model.weights=DEFAULT: timm has no weights of this model on the hub; give model.weights=PATH"
        )
    try:
        return Path(hf_hub_download(repository, filename="model.safetensors"))
    except Exception as error:
        raise ConfigError(
            f"model.weights=DEFAULT: {repository} cannot be had from the hub ({type(error).__name__}); "
            "download its model.safetensors elsewhere and give it as model.weights=PATH"
        ) from error


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ConfigError('model=timm needs the library timm: pip install "dptrain[timm]"') from error
    module: ModuleType = timm
    return module
