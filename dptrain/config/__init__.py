"""The configuration as types: each key, its default, what it may be; and all that is wrong, at once."""

from dptrain.config.parse import parse
from dptrain.config.rules import COMPONENTS, present
from dptrain.config.schema import (
    RENAMED,
    Config,
    Documents,
    Evidence,
    Performance,
    Privacy,
    Release,
    Sweep,
    Training,
    defaults,
)

__all__ = [
    "COMPONENTS",
    "RENAMED",
    "Config",
    "Documents",
    "Evidence",
    "Performance",
    "Privacy",
    "Release",
    "Sweep",
    "Training",
    "defaults",
    "parse",
    "present",
]
