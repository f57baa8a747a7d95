"""What a configuration asks for besides components: randomness, surroundings, a budget, forms of output."""

from __future__ import annotations

import torch

from dptrain.config import Config, Release
from dptrain.contracts import Access, Budget, Context, Output, Splits, Streams, devices
from dptrain.models.output import make_output
from dptrain.privacy.plan import check_delta, default_delta
from dptrain.tracking import NullRun


def make_streams(config: Config) -> Streams:
    """Where every random number of a run comes from."""
    return Streams(config.seed, config.deterministic, config.privacy.randomness)


def make_context(config: Config) -> Context:
    """What surrounds a training that nobody resumes and nobody tracks, and that keeps no features."""
    return Context(
        streams=make_streams(config),
        tracker=NullRun(),
        device=devices.named(config.device),
        dtype=torch.float64 if config.dtype == "float64" else torch.float32,
        bfloat16=config.dtype == "bfloat16",
    )


def make_budget(config: Config, splits: Splits) -> Budget:
    """The budget as configured, its delta filled in."""
    privacy, training = config.privacy, config.training
    units = len(splits.train)
    grouped = privacy.unit != "record"
    if grouped and splits.group_ids is not None:
        units = len(splits.group_ids.unique())
    rate, batch = training.sample_rate, training.expected_batch_size
    public, named = True, float(units)
    if privacy.delta is not None and rate is not None and batch is not None:
        public, named = False, batch / rate  # nothing is computed from their number: it is not told either
    delta = default_delta(units) if privacy.delta is None else privacy.delta
    unit = unit_word(config, splits)
    check_delta(delta, named, unit)
    return Budget(
        epsilon=privacy.epsilon,
        noise_multiplier=privacy.noise_multiplier,
        advantage=privacy.advantage,
        tpr_at_fpr=privacy.tpr_at_fpr,
        delta=delta,
        unit=unit,
        adjacency=privacy.adjacency,
        units_public=public,
    )


def unit_word(config: Config, splits: Splits) -> str:
    """What the unit of privacy is called: record, or what the data say a group is, such as patient.

    Where they say nothing, as the configuration calls it.
    """
    unit = config.privacy.unit
    return unit if unit == "record" else splits.group_word or unit


def make_outputs(release: Release) -> tuple[Output | None, ...]:
    """The interfaces that attacks by query meet: confidences as they are, then those asked for."""
    names = dict.fromkeys([release.output, *release.compare])
    return (None, *(_output(release, name) for name in names if name not in ("weights", "confidences")))


def given_output(release: Release) -> Output | None:
    """The form of output that is given away; None where confidences are given as they are."""
    return _output(release, release.output)


def _output(release: Release, name: str) -> Output | None:
    return make_output(name, top_k=release.top_k, digits=release.digits, temperature=release.temperature)


def given_away(release: Release, offers: frozenset[Access]) -> str:
    """The name of the interface that is given away, as leakage lines call it; `weights` where all is.

    What a release does not hold it does not give away, whatever `release.output` asks for.
    """
    if Access.CONFIDENCES not in offers:
        return "labels_only"
    if (output := given_output(release)) is not None:
        return output.name
    return "weights" if Access.WEIGHTS in offers else "confidences"
