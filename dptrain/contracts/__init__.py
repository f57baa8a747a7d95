"""The words of the project as types.

Everything that crosses from one package to another is named here, so that the
packages need not know each other. Imports torch and the standard library only.
"""

from dptrain.contracts.assignment import keyed_uniform, seed_key, stable_ids
from dptrain.contracts.counts import Counts, Scaled
from dptrain.contracts.errors import (
    BrokenGuarantee,
    ConfigError,
    DataError,
    DoesNotApply,
    DptrainError,
    LimitExceeded,
    OutOfQueries,
    RecordLost,
)
from dptrain.contracts.evidence import Exposed, Gallery, Interval, Leakage, NotRun
from dptrain.contracts.findings import (
    Attack,
    Attributes,
    Bets,
    Findings,
    Guesses,
    Images,
    NoiseSeen,
    Part,
    SamplingSeen,
    Scores,
    by_query,
    wants_shadows,
)
from dptrain.contracts.game import PROBES, Assigned, Attempt, Game, Scored, Scoring
from dptrain.contracts.guarding import Guarding, Latency, NormalUse, Probing
from dptrain.contracts.layers import MadeKernels
from dptrain.contracts.outcome import (
    Bin,
    Briefing,
    Calibration,
    Cost,
    Detectable,
    Estimate,
    Forecast,
    Report,
    Subgroup,
    Utility,
    Variant,
)
from dptrain.contracts.privacy import Budget, Clips, Guarantee, Plan, PrivacyLoss
from dptrain.contracts.randomness import Streams
from dptrain.contracts.records import Canaries, Records, Sensitive, Splits
from dptrain.contracts.regulariser import Objective, RecordLoss, Regulariser
from dptrain.contracts.release import OF_A_TRAINING, Access, Observation, Observer, Output, Queries, Release
from dptrain.contracts.rows import Rows
from dptrain.contracts.served import Raw, Served
from dptrain.contracts.statement import (
    Assignment,
    Constants,
    Hashes,
    Randomness,
    SelectionTerms,
    Sensitivity,
    Statement,
    SweepTotal,
    Trust,
)
from dptrain.contracts.targets import Shadow, Shadows, Slots, Targets
from dptrain.contracts.task import Task
from dptrain.contracts.training import Context, Kept, Mechanism, Progress, Ranks, Tracker
from dptrain.contracts.trees import Form, Forms, Inputs

__all__ = [
    "OF_A_TRAINING", "PROBES", "Access", "Assigned", "Assignment", "Attack", "Attempt", "Attributes",
    "Bets", "Bin", "Briefing", "BrokenGuarantee", "Budget", "Calibration", "Canaries", "Clips",
    "ConfigError", "Constants", "Context", "Cost", "Counts", "DataError", "Detectable", "DoesNotApply",
    "DptrainError",
    "Estimate", "Exposed", "Findings", "Forecast", "Form", "Forms", "Gallery", "Game", "Guarantee",
    "Guarding", "Guesses", "Hashes", "Images", "Inputs", "Interval", "Kept", "Latency", "Leakage",
    "LimitExceeded", "MadeKernels", "Mechanism", "NoiseSeen", "NormalUse", "NotRun", "Objective",
    "Observation", "Observer", "OutOfQueries", "Output", "Part", "Plan", "PrivacyLoss", "Probing",
    "Progress", "Queries", "Randomness", "Ranks", "Raw", "RecordLoss", "RecordLost", "Records",
    "Regulariser", "Release", "Report", "Rows", "SamplingSeen", "Scaled", "Scored", "Scores",
    "Scoring", "SelectionTerms", "Sensitive", "Sensitivity", "Served", "Shadow", "Shadows", "Slots", "Splits",
    "Statement", "Streams", "Subgroup", "SweepTotal", "Targets", "Task", "Tracker", "Trust", "Utility",
    "Variant", "by_query", "keyed_uniform", "seed_key", "stable_ids", "wants_shadows",
]  # fmt: skip
