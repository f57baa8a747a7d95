"""Image classifiers of the library transformers, which the extra `hf_image` has, with a fresh head."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from dptrain.contracts import ConfigError
from dptrain.contracts.ranges import Count, Positive
from dptrain.models.pretrained.backbone import Backbone, Trainable, behead, check_images, with_head
from dptrain.models.pretrained.stages import POOLED
from dptrain.models.pretrained.weights import Origin, file_hash
from dptrain.models.weight_files import some


def hf_image_model(
    shape: Sequence[int],
    num_classes: int,
    *,
    name: str,
    download: bool = False,
    sha256: str | None = None,
    trained_on: str | None = None,
    trainable: Trainable = "head",
    size: Count | None = None,
    features: str | Sequence[str] = POOLED,
    normalise_features: bool = False,
    width: Positive = 1,
) -> nn.Module:
    """The image model in the folder `name`, or of this name on the hub: images (C, H, W) to logits.

    What is on the hub must lie in the cache of Hugging Face, or is downloaded where that is allowed. Raises
    ConfigError.
    """
    transformers = _transformers()
    check_images(name, shape)
    known_as = Path(name).name if Path(name).is_dir() else name
    find: Callable[[str], str] = partial(transformers.utils.cached_file, name, local_files_only=not download)
    known: dict[str, Any] = {"local_files_only": not download, "trust_remote_code": False}
    network: nn.Module
    try:
        weights = Path(find("model.safetensors"))
        reads = json.loads(Path(find("preprocessor_config.json")).read_text())
        normalised = reads.get("do_normalize", True)
        mean = reads["image_mean"] if normalised else [0.0] * 3
        std = reads["image_std"] if normalised else [1.0] * 3
        config = transformers.AutoConfig.from_pretrained(name, **known)
        for key, value in vars(config).items():
            if "dropout" in key and isinstance(value, int | float):  # some is drawn by no layer of its own
                setattr(config, key, 0.0)
        network, loaded = transformers.AutoModelForImageClassification.from_pretrained(
            name,
            config=config,
            use_safetensors=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **known,
        )
    except Exception as error:  # of a library that may ask a hub
        raise ConfigError(
            f"model.name={name} cannot be read as an image classifier of transformers "
            f"({type(error).__name__}); give a folder that holds config.json, model.safetensors and "
            "preprocessor_config.json, or a name on the hub with model.download=true"
        ) from error
    digest = file_hash(weights, sha256)
    _refuse_random(loaded, behead(network), known_as)
    return with_head(
        Backbone(
            network=_Features(network),
            mean=mean,
            std=std,
            origin=Origin(name=known_as, trained_on=trained_on, sha256=digest),
        ),
        shape,
        num_classes,
        trainable=trainable,
        size=size,
        features=features,
        normalise_features=normalise_features,
        width=width,
    )


def _refuse_random(loaded: Mapping[str, Any], head: str, name: str) -> None:
    """Raise ConfigError where weights beside those of the head are not in the file, and were drawn."""
    # A key of another shape stands beside both shapes.
    lacking = {*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])}
    if lacking := {key for key in lacking if not key.startswith(f"{head}.")}:
        raise ConfigError(
            f"model.name={name}: model.safetensors has no {some(sorted(lacking))} of the shape that "
            "config.json wants; give the weights of this very network"
        )


class _Features(nn.Module):
    """What a classifier without its last layer makes of images: (N, width)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(pixel_values=images).logits
        return features


def _transformers() -> ModuleType:
    """The library, without bars and without words on weights that a fresh head does not need."""
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            'model=hf_image needs the library transformers: pip install "dptrain[hf_image]"'
        ) from error
    transformers.utils.logging.set_verbosity(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    module: ModuleType = transformers
    return module
