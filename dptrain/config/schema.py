"""The keys of the configuration as types: each with its default and what it may be, in words or as a list."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Component = dict[str, Any]  # a node with `_target_`


class Section:
    """A part of the configuration, which refuses keys that it does not know."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


RANK_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Privacy(Section):
    """The budget: one of a target epsilon, the most that an attack may achieve, and the noise multiplier."""

    epsilon: Annotated[Positive | None, Field(description="a target such as 1, 3 or 8")] = 3.0
    noise_multiplier: Annotated[
        Positive | None, Field(description="noise over max_grad_norm, with privacy.epsilon=null")
    ] = None
    advantage: Annotated[
        Share | None, Field(description="a share such as 0.1, with privacy.epsilon=null")
    ] = None
    tpr_at_fpr: Annotated[
        tuple[Share, Share] | None,
        Field(description="false and most true positives such as [0.01,0.05], with privacy.epsilon=null"),
    ] = None
    delta: Annotated[
        Share | None, Field(description="a chance such as 1e-5, below 1/units; null: 1/(10 units)")
    ] = None
    unit: Annotated[
        Literal["record", "group", "patient"],
        Field(description="record or group, such as the records of a patient; patient says group, too"),
    ] = "record"
    adjacency: Literal["add_remove", "replace_one"] = "add_remove"
    accountant: Annotated[str, Field(description="pld")] = "pld"
    randomness: Annotated[
        Literal["auto", "cryptographic"],
        Field(description="auto or cryptographic; cryptographic draws a GPU's noise on the CPU"),
    ] = "auto"
    tuned_on: Annotated[
        str | None,
        Field(min_length=1, description='public data, such as "PathMNIST", all else was tuned on; or null'),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Training(Section):
    """How a training goes; the same for every mechanism."""

    expected_batch_size: Annotated[Count | None, Field(description="a whole number such as 256")] = 256
    sample_rate: Annotated[
        Annotated[float, Field(gt=0, le=1)] | None,
        Field(description="a share in (0, 1], expected_batch_size / units; or null"),
    ] = None
    steps: Annotated[Count | None, Field(description="a whole number, or null with training.epochs")] = None
    epochs: Annotated[Positive | None, Field(description="a number, or null with training.steps")] = None
    sampling: Annotated[str, Field(description="poisson or shuffle")] = "poisson"
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0, description="a whole number, 0 for none")] = 0
    average_decay: Annotated[
        float, Field(ge=0, lt=1, description="such as 0.95; 0 releases the last weights")
    ] = 0.95
    augmentations: Annotated[
        int, Field(ge=0, description="random copies of each record at each step, such as 16; 0 for none")
    ] = 0
    shift: Annotated[int, Field(ge=0, description="pixels that a copy is moved by at most, such as 4")] = 4
    flip: Annotated[bool, Field(description="true or false; true mirrors every other copy")] = False
    evaluations: Annotated[
        Count, Field(description="a whole number: how often to look at the held-out records")
    ] = 10
    early_stopping: Annotated[
        Literal["none", "loss", "metric"],
        Field(
            description="none releases the last weights; loss or metric: those of the evaluation whose "
            "loss, or metric, on held-out records is best"
        ),
    ] = "none"
    diagnostics: Annotated[
        bool, Field(description="true or false; true logs the training loss, outside the guarantee")
    ] = False


@dataclass(frozen=True, kw_only=True)
class Performance(Section):
    """How fast and in how much memory a run is computed, never what: no cache key or digest has these."""

    threads: Annotated[
        Count | None, Field(description="CPU threads of each process, or null for all of them together")
    ] = None
    processes: Annotated[
        Count, Field(description="a whole number such as 2: processes that compute a run together, here")
    ] = 1
    sharding: Annotated[
        Literal["none", "fsdp2"],
        Field(
            description="none: each process has the model; fsdp2: each holds a part of it, as PyTorch divides"
        ),
    ] = "none"
    rank_seconds: Annotated[
        float, Field(gt=0, description="seconds after which a process that shows no sign of life is given up")
    ] = RANK_SECONDS
    private_network: Annotated[
        bool, Field(description="true where nobody else can read the network between several machines")
    ] = False
    physical_batch_size: Annotated[Count, Field(description="records in memory at once, such as 256")] = 256
    prefetch: Annotated[
        int, Field(ge=0, description="a whole number such as 2: batches read ahead where data.lazy; or 0")
    ] = 2
    feature_cache_gib: Annotated[
        float, Field(ge=0, description="memory for features of a frozen part, made once; 0 makes them anew")
    ] = 4.0
    feature_files_gib: Annotated[
        float, Field(ge=0, description="disk for all such features, kept beside the runs; 0 keeps none")
    ] = 4.0
    checkpoint_seconds: Annotated[float, Field(ge=0, description="a number of seconds")] = 15.0
    estimate: Annotated[
        bool, Field(description="true or false; false saves the seconds that telling the run's time takes")
    ] = True


# Keys of earlier versions, and what they are called now.
RENAMED = {
    "threads": "performance.threads",
    **{
        f"training.{name}": f"performance.{name}"
        for name in ("physical_batch_size", "prefetch", "feature_cache_gib", "checkpoint_seconds")
    },
}


@dataclass(frozen=True, kw_only=True)
class Evidence(Section):
    """How leakage is measured."""

    slots: Annotated[Count, Field(description="a whole number such as 24")] = 24
    candidates: Annotated[int, Field(ge=2, description="a whole number such as 10")] = 10
    confidence: Annotated[float, Field(ge=0.5, lt=1, description="a probability such as 0.95")] = 0.95
    permutations: Annotated[int, Field(ge=100, description="at least 100")] = 1000
    probes: Annotated[
        int,
        Field(ge=20, description="a whole number such as 400, at most; whether each is used is random"),
    ] = 400
    mislabelled: Annotated[
        float,
        Field(ge=0, le=1, description="the share of the probes that get a wrong label, such as 0 or 0.1"),
    ] = 0.0
    shadows: Annotated[
        Whole, Field(description="models that audits of losses and reconstruction share, such as 2; or 0")
    ] = 0
    canaries: Annotated[Count, Field(description="a whole number such as 1000")] = 1000
    canary_norm: Annotated[Positive, Field(description="length of a canary, in max_grad_norm")] = 10.0


Outputs = Literal["weights", "confidences", "top_k", "rounded", "temperature", "labels_only"]


@dataclass(frozen=True, kw_only=True)
class Release(Section):
    """What is given away of the model; with task=audit, also which model: `release=PATH_OR_RUN_ID`."""

    output: Outputs = "weights"
    top_k: Annotated[Count, Field(description="how many of the confidences are shown, such as 1")] = 1
    digits: Annotated[int, Field(ge=0, description="decimals, such as 1")] = 1
    temperature: Annotated[Positive, Field(description="what log-confidences are divided by, such as 4")] = (
        4.0
    )
    compare: Annotated[
        list[Outputs], Field(description="a list such as [top_k,labels_only] that attacks by query meet too")
    ] = field(default_factory=list)
    source: Annotated[
        str | None,
        Field(description="of audit, verify or serve: a run folder or id; or weights; or a URL"),
    ] = None
    key_env: Annotated[
        str | None, Field(description="of a URL: the environment variable with the API key, or several")
    ] = None
    run: Annotated[
        str | None, Field(description="of a URL: the run that is served there, where it is one's own")
    ] = None
    serve: Annotated[
        bool,
        Field(
            description="of audit: true serves the model for as long as it is attacked, behind serving=[...]"
        ),
    ] = False
    keys: Annotated[Count, Field(description="with release.serve: API keys of each attack, such as 10")] = 1
    tenants: Annotated[Count, Field(description="with release.serve: tenants that they belong to")] = 1
    at_once: Annotated[
        Count | None, Field(description="of a service: the most that is asked in one request; or null")
    ] = None
    pause_seconds: Annotated[
        NotNegative, Field(description="of a service: what is waited between requests, such as 1800")
    ] = 0.0
    sessions: Annotated[
        Whole, Field(description="with release.serve: sessions of normal traffic that its guards see")
    ] = 100
    seed: Annotated[
        int | None, Field(description="of audit: another seed of what attacks draw; null: that of the run")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Control(Section):
    """The control model: same data, model, batches and steps, no privacy, an optimizer without clipping."""

    enabled: Annotated[
        bool, Field(description="true or false; false trains no control model, so no attack has a control")
    ] = True
    optimizer: Component = field(default_factory=dict)


Scores = Literal["holdout.accuracy", "holdout.loss", "test.accuracy", "test.auroc", "test.loss"]


@dataclass(frozen=True, kw_only=True)
class Sweep(Section):
    """A sweep that was stopped goes on with what is missing; one with candidates selects in private.

    With `max_epsilon` no training begins that would bring all of them together beyond it. Of a private
    selection, `trial` is the job's number, which the sweep itself gives.
    """

    resume: Annotated[str | None, Field(description="the folder of a sweep, with -m")] = None
    max_epsilon: Annotated[
        Positive | None, Field(description="the most that all trainings of a sweep spend together, or null")
    ] = None
    candidates: Annotated[
        dict[str, Annotated[list[Any], Field(min_length=1)]],
        Field(description="a list of values by dotted key, such as {optimizer.lr:[0.1,1]}"),
    ] = field(default_factory=dict)
    distribution: Literal["geometric", "logarithmic", "negative_binomial", "poisson"] = "geometric"
    mean_runs: Annotated[float, Field(gt=1, le=500, description="above 1, such as 10")] = 10.0
    shape: Annotated[Positive | None, Field(description="a number, with negative_binomial only")] = None
    score: Annotated[
        Scores,
        Field(description="on held-out records: holdout.accuracy, which stands for the metric of the task"),
    ] = "holdout.accuracy"
    selection_epsilon: Annotated[
        Positive | None, Field(description="the selected model's epsilon, in place of privacy.epsilon's")
    ] = None
    trial: Count | None = None


@dataclass(frozen=True, kw_only=True)
class Documents(Section):
    """What is written besides the documents that every run leaves."""

    pdf: Annotated[
        bool, Field(description="true or false; true writes report.pdf too, which needs the extra `pdf`")
    ] = False
    card_measured: Annotated[
        bool,
        Field(description="true or false; true puts what attacks measured of training records on the card"),
    ] = False


@dataclass(frozen=True, kw_only=True)
class Serve(Section):
    """With task=serve: where the model answers requests, and what one request may cost."""

    host: Annotated[str, Field(min_length=1, description="127.0.0.1: this machine alone; or an address")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Field(ge=0, le=65535, description="such as 8000; 0 for any that is free")] = 8000
    workers: Annotated[Count, Field(description="processes that answer, such as 2")] = 1
    keys: Annotated[
        bool, Field(description="true or false; false lets anyone on this machine ask, without a key")
    ] = True
    folder: Annotated[
        str | None, Field(description="for the secret and the database; null: `serving` below output")
    ] = None
    store: Annotated[
        str | None,
        Field(description="null: SQLite in serve.folder; or a URL such as postgresql+psycopg://..."),
    ] = None
    durable: Annotated[
        bool, Field(description="true waits for the disk at each count: a power failure loses none either")
    ] = False
    calibration: Annotated[
        str | None,
        Field(description="of normal queries: public, held_out, or a .npz file with `inputs`; or null"),
    ] = None
    body_bytes: Annotated[Count, Field(description="a whole number, such as 4194304")] = 4194304
    body_seconds: Annotated[Positive, Field(description="seconds that a body may take to arrive")] = 10.0
    transit_bytes: Annotated[
        Count, Field(description="the most that is under way at once, a fourth of it by one key")
    ] = 67108864
    records: Annotated[Count, Field(description="the most in one request, such as 256")] = 256
    waiting: Annotated[Count, Field(description="the most requests that wait at once, such as 512")] = 512


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """One run."""

    task: Annotated[
        Literal["train", "plan", "audit", "verify", "serve", "schema"],
        Field(
            description="train; plan: tell what it would cost, without training; of what release=... names, "
            "audit: attack it without training it, verify: check it against its statement, or serve: answer "
            "requests with it; or schema: draft the schema of the table data.path"
        ),
    ] = "train"
    name: Annotated[
        str | None, Field(min_length=1, description="a title for report and tracker, such as 'Ward 3'")
    ] = None
    seed: Annotated[int, Field(ge=0, description="a whole number such as 0")] = 0
    deterministic: Annotated[
        bool,
        Field(description="true or false; true draws the noise from the seed, which voids the guarantee"),
    ] = False
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Annotated[
        Literal["float32", "float64", "bfloat16"],
        Field(description="float32, float64, or bfloat16: trainings compute in it, with weights in float32"),
    ] = "float32"
    output: Annotated[str, Field(min_length=1, description="a folder")] = "runs"
    resume: Annotated[str | None, Field(description="a run folder, or latest")] = None
    fail_if: Annotated[
        list[str], Field(description='a list of conditions such as ["leakage.membership.auc.low > 0.6"]')
    ] = field(default_factory=list)
    privacy: Privacy = field(default_factory=Privacy)
    training: Training = field(default_factory=lambda: Training(steps=100))
    performance: Performance = field(default_factory=Performance)
    evidence: Evidence = field(default_factory=Evidence)
    control: Control = field(default_factory=Control)
    release: Release = field(default_factory=Release)
    sweep: Sweep = field(default_factory=Sweep)
    report: Documents = field(default_factory=Documents)
    serve: Serve = field(default_factory=Serve)
    data: Component = field(default_factory=dict)
    model: Component = field(default_factory=dict)
    optimizer: Component = field(default_factory=dict)
    mechanism: Component = field(default_factory=dict)
    tracking: Component = field(default_factory=dict)
    attack: dict[str, Component] = field(default_factory=dict)
    game: dict[str, Component] = field(default_factory=dict)
    regulariser: dict[str, Component] = field(default_factory=dict)  # of the loss, in their order
    serving: dict[str, Component] = field(default_factory=dict)  # guards of a service, in their order


def defaults() -> dict[str, Any]:
    """Every default, as a plain dictionary: what Hydra composes recipes and overrides onto."""
    return {name: value for name, value in asdict(Config()).items() if value != {}}
