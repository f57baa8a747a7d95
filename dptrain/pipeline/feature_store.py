"""Where features of a frozen part are kept from one run to the next."""

from __future__ import annotations

import logging

from torch import nn

from dptrain.config import Config
from dptrain.contracts import Context, Splits
from dptrain.pipeline import cache_keys
from dptrain.runs.cache import Cache
from dptrain.runs.features import FeatureStore
from dptrain.runs.folder import GIVEN

log = logging.getLogger(__name__)


def feature_store(
    config: Config, splits: Splits, context: Context, model: nn.Module, cache: Cache
) -> FeatureStore | None:
    """The features beside the runs of what is frozen of a model; None where nothing is, or none are kept."""
    gib = config.performance.feature_files_gib
    if gib <= 0 or config.model.get(GIVEN):  # whose code and constants no configuration tells
        return None
    key = cache_keys.of_features(config, splits, context, model)
    if key is None:
        return None
    try:
        return FeatureStore(cache.folder_of(key), gib=gib)
    except OSError as error:  # without features that are kept a run takes longer, no more
        log.warning("features of the frozen part are not kept beside the runs: %s", error)
        return FeatureStore()
