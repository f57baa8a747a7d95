"""The privacy statement: what is proved of a release, and all that it rests on, as types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dptrain.contracts.counts import Counts


@dataclass(frozen=True, kw_only=True)
class Randomness:
    """Where noise, samples and masks draw their numbers, what that costs, and what stays an assumption.

    `epsilon` and `delta` are what the generator's reach, its resolution and the grid cost; they are part
    of the statement's own. Lengths are in standard deviations of the noise, `draws` counts its numbers.
    """

    secret: bool
    cryptographic: bool
    source: str
    generator: str | None = None
    reach: float | None = None  # the largest draw that can occur
    draws: int | None = None
    grid: float | None = None  # step of the public grid that noisy sums are rounded to
    epsilon: float = 0.0
    delta: float = 0.0
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What one unit can add to a step's sum, and how far that was tested."""

    # Claimed: the most that one change of the data moves a step's sum of gradients; of other plans than
    # DP-SGD's all that noise is added to, in units of noise over noise multiplier.
    most: float | None = None
    records: int | None = None  # of one unit that one step can use; None: as many as it has
    independence: str = "not tested"  # of the rows of a batch: "tested, not proved"
    audit: str | None = None  # held | BROKEN, of the sums on the engine in use; None: not audited
    ratio: float | None = None  # largest measured change over the claim, on rows that are no record


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """How much of the training a secret random choice decided, for the attacks; None: not used.

    Of slots and probes the numbers that are constants of the configuration: how many there came to be is
    a property of the records.
    """

    slots: int | None = None  # at most
    candidates: int | None = None  # of each slot, one of which is trained on
    probes: int | None = None  # expected
    probes_trained_on: int | None = None  # expected
    canaries: int | None = None
    canaries_trained_on: int | None = None
    change: str | None = None  # how one unit more or less changes the set that is trained on

    @property
    def set_aside(self) -> dict[str, int]:
        """Records that are expected to be in no part of the data any more, by what they are needed for."""
        found = {}
        if self.probes is not None and self.probes_trained_on is not None:
            found["probes"] = self.probes - self.probes_trained_on
        if self.slots is not None and self.candidates is not None:
            found["slots"] = self.slots * (self.candidates - 1)
        return found


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Who sees records as they are, and who and what is believed without proof."""

    model: str
    sees_records: str
    trusted: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Numbers that the training used as if they were public, and which of them the configuration declares."""

    declared: tuple[str, ...] = ()  # given in the configuration, whatever the records are
    from_units: tuple[str, ...] = ()  # computed from the number of units, which is public thereby
    class_prior: tuple[float, ...] | None = None
    mean: tuple[float, ...] | None = None  # that inputs are normalised by
    std: tuple[float, ...] | None = None
    bounds: tuple[float, float] | None = None  # of every input


@dataclass(frozen=True, kw_only=True)
class Hashes:
    """SHA-256 of what the statement is about; None where it is not known.

    `code` is of all modules in `modules` together, and of the model's class.
    """

    weights: str | None = None
    code: str | None = None
    config: str | None = None
    model: str | None = None  # the class, such as my_nets.Net
    modules: Mapping[str, str] = field(default_factory=dict)  # of the user's and of dptrain.models, by name
    sections: Mapping[str, str] = field(default_factory=dict)  # of the configuration, by name


@dataclass(frozen=True, kw_only=True)
class SelectionTerms:
    """The terms of a private selection: what the selected model is released under."""

    search: str  # tells one search from another, and nothing else
    epsilon: float
    delta: float
    tpr_at_fpr: Mapping[str, float]
    epsilon_alone: float
    unit: str
    distribution: str
    mean_runs: float
    shape: float | None
    runs_99: int
    candidates: int
    score: str
    theorem: str
    accountant: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class SweepTotal:
    """What the models of a sweep spend together; the fields from `max_epsilon` on where it has a limit."""

    runs: int
    epsilon_together: float
    not_private: int
    sentence: str
    delta: float | None = None  # at which they spend it; None: the run's own
    max_epsilon: float | None = None
    epsilon_counted: float | None = None
    counted: int | None = None
    id: str | None = None
    plans: tuple[Mapping[str, Any], ...] | None = None
    draws: int | None = None  # numbers of noise of these together, at most
    order: float | None = None
    rule: str | None = None
    choice_covered: bool = True  # whether it holds for whoever picks one by its results, too


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What is proved of a release, and everything that must be said beside its epsilon.

    Epsilon is infinite where nothing is proved. Constants of a mechanism are None where it has none, or
    where a run was read from a record that does not hold them.
    """

    private: bool
    sentence: str
    unit: str
    adjacency: str
    epsilon: float
    delta: float
    void_reason: str | None = None  # why the proof does not hold for this run
    released: str = ""
    interface: str | None = None  # what is given away of the model: weights, or a form of output
    delta_meaning: str | None = None  # what this delta allows for so many units
    units: int | None = None
    units_public: bool = True
    noise_multiplier: float | None = None
    max_grad_norm: float | None = None
    sample_rate: float | None = None
    steps: int | None = None
    expected_batch_size: int | None = None
    clipping: str | None = None
    sampling_run: str | None = None
    sampling_assumed: str | None = None
    plan: tuple[tuple[str, str], ...] = ()  # constants of a mechanism that has others than these: name, text
    accountant: str = "none"
    cross_checks: Mapping[str, float] = field(default_factory=dict)
    tpr_at_fpr: Mapping[str, float] = field(default_factory=dict)
    sensitivity: Sensitivity | None = None
    randomness: Randomness | None = None
    assignment: Assignment | None = None
    counts: Counts | None = None  # those that are public
    trust: Trust | None = None
    constants: Constants | None = None
    public_data: tuple[str, ...] = ()
    tuned_on: str | None = None
    selection: SelectionTerms | None = None  # of a trial: on which it may be selected
    selected_from: SelectionTerms | None = None  # of what is released: on which it was
    sweep: SweepTotal | None = None
    outside_guarantee: tuple[str, ...] = ()
    date: str | None = None  # UTC, ISO 8601
    hashes: Hashes | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    code_revision: str | None = None
    replayed_steps: int = 0
    lost_steps: int = 0

    @property
    def void(self) -> bool:
        """Whether a proof was attempted that does not hold for this run."""
        return self.void_reason is not None
