"""What may be spent: the budget that a configuration asks for, on these records."""

from __future__ import annotations

from dptrain.config import Config
from dptrain.contracts import Budget, Splits
from dptrain.privacy.plan import check_delta, default_delta


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
