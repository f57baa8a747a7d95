"""The configuration as types: each key, its default, what it may be; and all that is wrong, at once."""

from dptrain.config.parse import parse
from dptrain.config.rules import COMPONENTS
from dptrain.config.schema import (
    Config,
    Control,
    Documents,
    Evidence,
    Privacy,
    Release,
    Sweep,
    Training,
    defaults,
)

__all__ = [
    "COMPONENTS",
    "Config",
    "Control",
    "Documents",
    "Evidence",
    "Privacy",
    "Release",
    "Sweep",
    "Training",
    "defaults",
    "parse",
]
