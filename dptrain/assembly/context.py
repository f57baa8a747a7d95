"""The surroundings of trainings, as a configuration asks for them."""

from __future__ import annotations

import torch

from dptrain.assembly.model import choose_device
from dptrain.config import Config
from dptrain.contracts import Context, Streams
from dptrain.tracking import NullRun


def make_streams(config: Config) -> Streams:
    """Where every random number of a run comes from."""
    return Streams(config.seed, config.deterministic, config.privacy.randomness)


def make_context(config: Config, *, keeps_features: bool) -> Context:
    """What surrounds a training that nobody resumes and nobody tracks."""
    return Context(
        streams=make_streams(config),
        tracker=NullRun(),
        device=choose_device(config.device),
        dtype=getattr(torch, config.dtype),
        features={} if keeps_features else None,
    )
