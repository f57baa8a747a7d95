"""The words of the project as types.

Everything that crosses from one package to another is named here, so that the
packages need not know each other. Imports torch and the standard library only.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset


class DptrainError(Exception):
    """A condition the user can cure; its text names the key, the value and the cure."""


class ConfigError(DptrainError):
    """The configuration cannot be run as it stands."""


class DataError(DptrainError):
    """The data cannot be found, read or trusted."""


class BrokenGuarantee(DptrainError):
    """An attack measured more leakage than the guarantee allows: the implementation is wrong."""


class LimitExceeded(DptrainError):
    """A number of the report is beyond a limit that the user set with `fail_if`."""


class OutOfQueries(DptrainError):
    """A query budget is spent."""


# --------------------------------------------------------------------------- randomness


@dataclass(frozen=True)
class Streams:
    """Where every random number comes from.

    Model initialisation, data generation and attacks draw from `seeded` streams, one a
    purpose, reproducible from the public seed. Sampling and noise draw from `secret`
    streams, seeded by the operating system; a `deterministic` run (for tests) derives those
    from the public seed too, and its guarantee is void.
    """

    seed: int
    deterministic: bool = False

    def seeded(self, purpose: str) -> torch.Generator:
        """A CPU generator that depends on the public seed and the purpose alone."""
        generator = torch.Generator()
        generator.manual_seed(_mix(self.seed, purpose))
        return generator

    def secret(self, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator whose seed nobody knows, unless the run is deterministic."""
        generator = torch.Generator(device=device)
        if self.deterministic:
            generator.manual_seed(_mix(self.seed, purpose))
            return generator
        generator.manual_seed(secrets.randbits(63))
        if generator.device.type == "cpu":
            _fill_mersenne_twister(generator)
        return generator


def _fill_mersenne_twister(generator: torch.Generator) -> None:
    """Fill all 624 words from the operating system: `manual_seed` keeps 32 bits, few enough to try."""
    words = 624
    state = generator.get_state()
    drawn = torch.frombuffer(bytearray(secrets.token_bytes(4 * words)), dtype=torch.uint32)
    # A seed, two counters and a position come first (24 bytes), then one 64-bit integer a word.
    state[24 : 24 + 8 * words] = drawn.to(torch.int64).view(torch.uint8)
    generator.set_state(state)


def _mix(seed: int, purpose: str) -> int:
    """Derive a 63-bit seed from a seed and a word."""
    import hashlib

    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


# --------------------------------------------------------------------------- data


class Records(Dataset):
    """Labelled records held in memory: inputs (N, ...) float in declared bounds, labels (N,) int64."""

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        if len(inputs) != len(labels):
            raise DataError(f"{len(inputs)} inputs but {len(labels)} labels: give one label a record")
        self.inputs = inputs
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.labels[index]

    def take(self, indices: Tensor) -> Records:
        """The records at these positions, in this order."""
        return Records(self.inputs[indices], self.labels[indices])

    def and_more(self, more: Records) -> Records:
        """These records and, after them, those."""
        return Records(torch.cat([self.inputs, more.inputs]), torch.cat([self.labels, more.labels]))


@dataclass(frozen=True, kw_only=True)
class Sensitive:
    """A column that must not be inferred: where it sits in an input, how each of its values is encoded."""

    name: str
    columns: tuple[int, ...]  # positions in a flat input
    values: Tensor  # (values, columns)
    names: tuple[str, ...]  # of the values

    def hide(self, inputs: Tensor) -> Tensor:
        """These inputs (N, width) with the column blanked."""
        hidden = inputs.clone()
        hidden[:, list(self.columns)] = 0.0
        return hidden

    def fill(self, inputs: Tensor, value: int) -> Tensor:
        """These inputs (N, width) with the column set to one of its values."""
        filled = inputs.clone()
        filled[:, list(self.columns)] = self.values[value].to(inputs)
        return filled

    def read(self, inputs: Tensor) -> Tensor:
        """The value that each input (N, width) holds, the nearest one: (N,) int64."""
        return torch.cdist(inputs[:, list(self.columns)], self.values.to(inputs)).argmin(1)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A data set, divided: what is trained on, what is held out, what utility is measured on.

    `train` and `holdout` are drawn alike; `bounds`, `mean` and `std` are declared public
    constants, never computed from the records.
    """

    name: str
    source: str
    train: Records
    holdout: Records
    test: Records
    classes: tuple[str, ...]
    bounds: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_prior: tuple[float, ...] | None = None  # declared class frequencies, where they are unequal
    group_ids: Tensor | None = None  # of the training records; records of one patient share an id
    public: Records | None = None
    sensitive: tuple[Sensitive, ...] = ()  # of tables: the columns that attribute inference aims at

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch dimension."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def num_classes(self) -> int:
        return len(self.classes)


# --------------------------------------------------------------------------- privacy


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the user is willing to spend: a target epsilon, or the noise multiplier itself."""

    epsilon: float | None
    delta: float
    noise_multiplier: float | None = None
    unit: str = "record"  # record | patient
    adjacency: str = "add_remove"  # add_remove | replace_one
    units_public: bool = True  # some constant of the plan was computed from the number of units


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that sampler, clipper, noise and accountant agree on; public constants, frozen.

    `noise_multiplier` is the noise's standard deviation over `max_grad_norm`, the most that
    one unit can add to a sum of clipped gradients. `expected_batch_size` is the fixed divisor.
    """

    units: int
    sample_rate: float
    steps: int
    expected_batch_size: int
    max_grad_norm: float
    noise_multiplier: float
    clipping: str = "flat"  # flat | per_layer | automatic
    sampling: str = "poisson"  # poisson | shuffle
    adjacency: str = "add_remove"

    @property
    def sensitivity(self) -> float:
        """Most that one change of the data set, as `adjacency` has it, moves a sum of gradients."""
        return self.max_grad_norm * (2.0 if self.adjacency == "replace_one" else 1.0)

    @property
    def noise_std(self) -> float:
        """Standard deviation of each coordinate's noise on the *sum* of clipped gradients."""
        return self.noise_multiplier * self.max_grad_norm


@runtime_checkable
class Guarantee(Protocol):
    """What is proved: an upper bound, carried as a privacy loss distribution."""

    @property
    def delta(self) -> float: ...

    @property
    def curve(self) -> tuple[tuple[int, float], ...]:
        """(step, epsilon) from (0, 0) to the end; empty if not private."""
        ...

    def epsilon(self, delta: float | None = None) -> float:
        """The epsilon proved at this delta (default: the run's own); infinite if none is."""
        ...

    @property
    def mu(self) -> float:
        """The Gaussian-DP parameter that describes the guarantee at the run's delta."""
        ...

    def tradeoff(self, alpha: float) -> float:
        """Least false-negative rate of any membership test with false-positive rate alpha."""
        ...

    def membership_tpr(self, fpr: float) -> float:
        """Most true positives of any membership test at this false-positive rate."""
        ...

    def reconstruction_bound(self, base_rate: float) -> float:
        """Most often that any adversary names the record, when blind guessing succeeds at `base_rate`."""
        ...

    def statement(self) -> dict[str, Any]:
        """The guarantee in full: JSON-ready numbers and words."""
        ...


# --------------------------------------------------------------------------- what the adversary sees


class Knowledge(Enum):
    """What an attack must be given."""

    WEIGHTS = "weights"  # the final weights and the architecture
    CONFIDENCES = "confidences"  # class probabilities, by query
    LABELS = "labels"  # predicted class only, by query
    TRANSCRIPT = "transcript"  # every noisy gradient
    SLOTS = "slots"  # for each planted record, the candidates that it was drawn from
    PROBES = "probes"  # records of which a coin decided whether they are trained on; not the coins
    CANARIES = "canaries"  # artificial gradients, likewise
    SHADOWS = "shadows"  # models of the adversary's own, trained on known halves of the probes
    ATTRIBUTES = "attributes"  # all of the probes but one sensitive column


class Output(Protocol):
    """What a prediction interface tells of a model's confidences."""

    @property
    def name(self) -> str: ...

    def __call__(self, confidences: Tensor) -> Tensor:
        """From class probabilities (N, classes) to what the caller is shown of them, of the same shape."""
        ...


@dataclass(frozen=True, kw_only=True)
class Release:
    """All that the adversary sees of a trained model."""

    architecture: Callable[[], nn.Module]  # builds the module with arbitrary weights
    weights: Mapping[str, Tensor]
    transcript: Observer | None = None  # what an attack that watched the training remembers of it
    published: tuple[tuple[int, float, float], ...] = ()  # step, accuracy, loss on held-out records
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    output: Output | None = None  # None: confidences as they are

    def build(self) -> nn.Module:
        """The released model in evaluation mode, its parameters frozen."""
        model = self.architecture()
        model.load_state_dict(dict(self.weights))
        return model.to(self.device).eval().requires_grad_(False)

    def predict(self, inputs: Tensor, batch_size: int = 1024) -> Tensor:
        """What the prediction interface answers: class probabilities (N, classes), on the CPU."""
        return self.queries().confidences(inputs, batch_size)

    def queries(self, budget: int | None = None) -> Queries:
        """The prediction interface, which counts what it is asked and ends when the budget is spent."""
        return Queries(self, budget)


class Queries:
    """A prediction interface: the model is built once, every input asked about is counted."""

    def __init__(self, release: Release, budget: int | None) -> None:
        self._model = release.build()
        self._device = release.device
        self._output = release.output
        self.budget = budget
        self.spent = 0

    @property
    def left(self) -> int | None:
        """How many inputs may still be asked about; None: any number."""
        return None if self.budget is None else self.budget - self.spent

    @torch.no_grad()
    def confidences(self, inputs: Tensor, batch_size: int = 1024) -> Tensor:
        """Class probabilities as the interface shows them, (N, classes), on the CPU; N queries."""
        if self.left is not None and len(inputs) > self.left:
            raise OutOfQueries(f"{len(inputs)} queries asked for, {self.left} left of {self.budget}")
        self.spent += len(inputs)
        answers = torch.cat(
            [
                self._model(part.to(self._device)).softmax(-1).float().cpu()
                for part in inputs.split(batch_size)
            ]
        )
        return answers if self._output is None else self._output(answers)

    def labels(self, inputs: Tensor, batch_size: int = 1024) -> Tensor:
        """The class that the interface names for each input: (N,) int64, on the CPU; N queries."""
        return self.confidences(inputs, batch_size).argmax(-1)


class Observation(Protocol):
    """One noisy step, as an adversary sees it who knows every record but the one asked about."""

    @property
    def step(self) -> int: ...

    @property
    def sampling(self) -> str:
        """How batches are said to be drawn: poisson or shuffle."""
        ...

    @property
    def sample_rate(self) -> float: ...

    @property
    def noise_std(self) -> float:
        """Standard deviation of each coordinate of the noise, as declared."""
        ...

    def view(self, slot: int) -> Tensor:
        """The noisy sum of gradients less all that the adversary knows: (parameters,)."""
        ...

    def contribution(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """What each of these records would add to the sum if it were sampled: (n, parameters)."""
        ...

    def lengths(self, canaries: Canaries) -> Tensor:
        """How much each canary adds along its coordinate if it is sampled, after clipping: (canaries,)."""
        ...

    def alone(self) -> float | None:
        """Length of what one sampled probe added, as the engine made it, over max_grad_norm.

        None where no probe was sampled, or where nothing is clipped.
        """
        ...

    def undecided(self, on: Knowledge) -> Tensor:
        """The noisy sum less all but the PROBES or CANARIES, as the engine summed them: (parameters,)."""
        ...


class Observer(Protocol):
    """Looks on while the model trains, and remembers what its attack needs, in constant memory."""

    def observe(self, step: Observation) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Slots:
    """What the adversary knows of the planted records: candidates (slots, candidates, ...) and their labels.

    One candidate of each slot, drawn by a fair coin before training, was trained on.
    """

    inputs: Tensor
    labels: Tensor  # (slots, candidates)

    @property
    def count(self) -> int:
        return self.labels.shape[0]

    @property
    def candidates(self) -> int:
        return self.labels.shape[1]


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """Artificial units: each has a gradient of length `norm` along a parameter of its own ("Dirac").

    `coordinates` (canaries,) are positions among the trainable parameters, in the order of
    `model.parameters()`, flattened. About half of the canaries, by a coin each, take part in the training.
    """

    coordinates: Tensor
    norm: float  # before clipping

    def __len__(self) -> int:
        return len(self.coordinates)


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """A model that the adversary trained, and which of the probes it was trained on: (probes,) bool."""

    release: Release
    members: Tensor


class Shadows(Protocol):
    """Trains the adversary's own models, or finds them where they were kept."""

    def train(self, count: int, *, private: bool) -> tuple[Shadow, ...]:
        """Shadow models in pairs that share the probes between them, half each.

        By the target's own mechanism, or (`private=False`) without privacy. Each is trained on
        the records that the adversary knows and on its half of the probes.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What is public about the records: every attack may use it, and nothing else."""

    classes: tuple[str, ...]
    shape: tuple[int, ...]
    bounds: tuple[float, float]
    mean: tuple[float, ...]
    background: Records  # records of the same population that an adversary may own, none trained on
    slots: Slots | None = None
    probes: Records | None = None  # of which a coin decided whether they are trained on
    canaries: Canaries | None = None
    shadows: Shadows | None = None
    sensitive: tuple[Sensitive, ...] = ()
    subjects: Mapping[str, Records] = field(default_factory=dict)  # the probes, that sensitive column blanked


# --------------------------------------------------------------------------- what attacks return


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """For each slot, the candidate that the attack names: (slots,) int64.

    `effective_slots` is the number of independent trials that these slots are worth, where
    the attack can tell how far its guesses hang together; None means all of them.
    """

    guesses: Tensor
    effective_slots: float | None = None


@dataclass(frozen=True, kw_only=True)
class Images:
    """Inputs that an attack made for each class: inputs (n, ...) in bounds, labels (n,).

    `trail` holds what an attack by queries had in hand on its way: queries spent, inputs (n, ...).
    """

    inputs: Tensor
    labels: Tensor
    trail: tuple[tuple[int, Tensor], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scores:
    """For each probe, how much speaks for its having been trained on, more being likelier: (probes,)."""

    scores: Tensor


@dataclass(frozen=True, kw_only=True)
class Bets:
    """Scores, as above, to bet on: the highest are guessed to be members, as many lowest not to be.

    `on` says what is scored, PROBES or CANARIES; `guesses`, fixed before any coin is seen, how many
    are bet on. None leaves the number to the judge, who plans it from the guarantee alone.
    `noise` and `sampling` hold what the attack saw of the noise and of the batches, where it did;
    `longest` the longest contribution of a single record that it saw, over what clipping allows.
    """

    scores: Tensor
    on: Knowledge
    guesses: int | None = None
    noise: NoiseSeen | None = None
    sampling: SamplingSeen | None = None
    longest: float | None = None


@dataclass(frozen=True, kw_only=True)
class NoiseSeen:
    """What the noise looked like, over its declared standard deviation, where nothing else was added.

    Under an honest mechanism both are chi-square over their degrees of freedom: `each`, the mean
    square of every number seen; `summed`, that of each coordinate's sum over the steps, over the
    square root of their number, which repeated noise inflates.
    """

    each: float
    summed: float
    steps: int
    coordinates: int


@dataclass(frozen=True, kw_only=True)
class SamplingSeen:
    """How often each canary was seen to take part, where no noise hid it: (canaries,).

    Of a member under Poisson sampling this is binomial, with `steps` trials at `sample_rate`.
    """

    counts: Tensor
    steps: int
    sample_rate: float


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """For each sensitive column, the value that the attack names for each probe, (probes,) int64.

    `imputed` is what the same knowledge says without any access to the model.
    """

    guesses: Mapping[str, Tensor]
    imputed: Mapping[str, Tensor]


Findings = Guesses | Images | Scores | Bets | Attributes


class Attack(Protocol):
    """A procedure against a release.

    `needs` says what it must be given; the pipeline collects the needs before training. An
    attack that needs the transcript also has `watch(targets) -> Observer`, called before
    training; the observer comes back as `release.transcript`.
    """

    @property
    def needs(self) -> frozenset[Knowledge]: ...

    def run(self, release: Release, targets: Targets, rng: torch.Generator) -> Findings: ...


# --------------------------------------------------------------------------- evidence


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A measured value and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """What one attack achieved, with all that is needed to read it; never a ceiling.

    `floor` is the same attack without the release, `control` against the non-private twin,
    `bound` what the guarantee proves about this metric (None: no theorem says so), and
    `detection_limit` the most that this attack with these trials could have certified.
    """

    attack: str
    metric: str
    value: Interval
    floor: float
    control: Interval | None
    bound: float | None
    detection_limit: float
    verdict: str
    trials: int
    confidence: float = 0.95
    interface: str = ""  # how an attack by queries met the model: "" where it held the weights
    notes: str = ""  # how the interval was made, what the numbers are conditional on
    details: Mapping[str, float] = field(default_factory=dict)  # further numbers, by name


@dataclass(frozen=True, kw_only=True)
class Exposed:
    """How easily one training record is told from records that were not trained on.

    `percentile` is the share of the non-members that an attack finds less likely to be members;
    `score` what the attack says of it; both by attack.
    """

    record: str  # where it comes from, such as "train 17"
    label: int
    score: Mapping[str, float]
    percentile: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Class inversions beside what they must be compared with; one row a class, images in bounds.

    `nearest_member` shows *training records*: a figure made of it is as confidential as they are.
    """

    classes: tuple[str, ...]
    bounds: tuple[float, float]
    released: Tensor  # (classes, C, H, W): inverted from the release
    control: Tensor | None  # from the non-private twin
    mean: Tensor  # mean image of the class, over held-out records
    nearest_member: Tensor  # the training record nearest to `released`


# --------------------------------------------------------------------------- the outcome of a run


@dataclass(frozen=True, kw_only=True)
class Utility:
    """How good a model is on the test records: accuracy, macro one-vs-rest AUROC, mean loss in nats."""

    accuracy: Interval
    auroc: float
    loss: float
    records: int


@dataclass(frozen=True, kw_only=True)
class Briefing:
    """What is about to be spent, told before training starts."""

    recipe: str
    data: str  # name and where it came from
    train: int
    holdout: int
    test: int
    model: str
    parameters: int
    mechanism: str
    device: str
    plan: Plan | None  # None: not private
    unit: str
    epsilon: float  # infinite: not private
    delta: float
    attacks: tuple[str, ...]
    seconds: float | None  # estimated training time
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a run found out; what the console, the files and the tracker are made from."""

    recipe: str
    mechanism: str
    data: Mapping[str, Any]  # name, source, train, holdout, test (counts), classes (count)
    utility: Utility
    control: Utility | None  # of the non-private twin
    floor_accuracy: float  # always naming the most frequent class
    guarantee: Mapping[str, Any]  # Guarantee.statement()
    epsilon_by_step: tuple[tuple[int, float], ...]  # empty: not private
    holdout_by_step: tuple[tuple[int, float, float], ...]  # step, accuracy, loss on held-out records
    tradeoff: tuple[tuple[float, float], ...]  # false-positive rate, most true positives
    leakage: tuple[Leakage, ...]
    gallery: Gallery | None
    seconds: Mapping[str, float]  # train, attack, total
    folder: Path
    reproduce: str  # the command line
    queries: Mapping[str, tuple[tuple[int, float, float | None], ...]] = field(default_factory=dict)
    # by attack: queries spent, success on the release, on the twin
    exposed: tuple[Exposed, ...] = ()  # the probes that were trained on, the easiest to recognise first


# --------------------------------------------------------------------------- how a run talks to the outside


class Tracker(Protocol):
    """Where parameters, metrics and files of a run go."""

    def params(self, values: Mapping[str, Any]) -> None: ...

    def tags(self, values: Mapping[str, str]) -> None: ...

    def metric(self, name: str, value: float, step: int = 0) -> None: ...

    def artifact(self, path: Path, folder: str | None = None) -> None: ...

    def model(self, model: nn.Module, example: Tensor) -> None: ...


class Progress(Protocol):
    """Called after each step, on behalf of the person who waits."""

    def __call__(self, *, done: int, total: int, epsilon: float) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Context:
    """The surroundings of one training: randomness, place, onlookers."""

    streams: Streams
    tracker: Tracker
    device: torch.device
    dtype: torch.dtype = torch.float32
    folder: Path | None = None  # where checkpoints go; None: this training is not resumable
    planted: tuple[int, ...] = ()  # training index of the record in each slot
    probed: tuple[int, ...] = ()  # training index of each probe that is trained on
    canaries: Canaries | None = None  # that take part, numbered after the training records
    observers: tuple[Observer, ...] = ()
    progress: Progress | None = None


class Mechanism(Protocol):
    """A way to turn records into a release, and to prove something about it."""

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model as this mechanism can train it; raises ConfigError where it cannot."""
        ...

    def plan(self, splits: Splits, budget: Budget) -> Plan | None:
        """What `fit` will do; None if it promises nothing."""
        ...

    def fit(
        self, model: nn.Module, splits: Splits, budget: Budget, context: Context
    ) -> tuple[Release, Guarantee]: ...
