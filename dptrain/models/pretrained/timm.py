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
from dptrain.models.pretrained.weights import DEFAULT, Origin, file_hash, load, read_weights, refuse_declared

# Tags of timm that are recipes of training on ImageNet-1k alone, without a teacher that knew more.
ALONE = ("in1k", "a1_in1k", "a2_in1k", "a3_in1k", "ra_in1k", "ra2_in1k", "ra3_in1k", "tv_in1k", "tv2_in1k")


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
    if weights is None:
        refuse_declared(sha256=sha256, trained_on=trained_on)
    else:
        path = packaged(name) if weights == PACKAGE else Path(weights).expanduser()
        if weights == DEFAULT:
            path = _downloaded(published)
            trained_on = trained_on or _trained_on(published)
        digest = file_hash(path, sha256, published=weights in (DEFAULT, PACKAGE))
        classifiers = published.get("classifier") or ()
        head = [classifiers] if isinstance(classifiers, str) else list(classifiers)
        found = read_weights(path)
        if weights == PACKAGE:
            found, trained_on = renamed(found, network), trained_on or TRAINED_ON
        load(network, found, path=path, name=name, head=head)
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
    """What the tag of timm's own weights says, such as augreg_in21k_ft_in1k.

    >>> _trained_on({"tag": "tv_in1k"}), _trained_on({"tag": "ns_jft_in1k"})
    ("ImageNet-1k (timm's tag tv_in1k)", "what timm's tag ns_jft_in1k says")
    """
    tag = str(published.get("tag") or "")
    if not tag:
        return None
    return f"ImageNet-1k (timm's tag {tag})" if tag in ALONE else f"what timm's tag {tag} says"


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
