"""The configuration as types: each key, its default, what it may be; and all that is wrong, at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from dptrain.contracts import ConfigError
from dptrain.redaction import masked_keys, revealed

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Component = dict[str, Any]  # a node with `_target_`

FORBID = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """The budget: one of a target epsilon, the most that an attack may achieve, and the noise multiplier."""

    __pydantic_config__ = FORBID

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
    unit: Annotated[Literal["record", "patient"], Field(description="record or patient")] = "record"
    adjacency: Annotated[
        Literal["add_remove", "replace_one"], Field(description="add_remove or replace_one")
    ] = "add_remove"
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
class Training:
    """How a training goes; the same for every mechanism."""

    __pydantic_config__ = FORBID

    expected_batch_size: Annotated[Count | None, Field(description="a whole number such as 256")] = 256
    sample_rate: Annotated[
        Annotated[float, Field(gt=0, le=1)] | None,
        Field(description="a share in (0, 1], expected_batch_size / units; or null"),
    ] = None
    steps: Annotated[Count | None, Field(description="a whole number, or null with training.epochs")] = None
    epochs: Annotated[Positive | None, Field(description="a number, or null with training.steps")] = None
    sampling: Annotated[str, Field(description="poisson or shuffle")] = "poisson"
    physical_batch_size: Annotated[Count, Field(description="records in memory at once, such as 256")] = 256
    prefetch: Annotated[
        int, Field(ge=0, description="a whole number such as 2: batches read ahead where data.lazy; or 0")
    ] = 2
    schedule: Annotated[
        Literal["constant", "linear", "cosine"], Field(description="constant, linear or cosine")
    ] = "constant"
    warmup_steps: Annotated[int, Field(ge=0, description="a whole number, 0 for none")] = 0
    average_decay: Annotated[
        float, Field(ge=0, lt=1, description="such as 0.95; 0 releases the last weights")
    ] = 0.95
    augmentations: Annotated[
        int, Field(ge=0, description="random copies of each record at each step, such as 16; 0 for none")
    ] = 0
    shift: Annotated[int, Field(ge=0, description="pixels that a copy is moved by at most, such as 4")] = 4
    flip: Annotated[bool, Field(description="true or false; true mirrors every other copy")] = False
    feature_cache_gib: Annotated[
        float, Field(ge=0, description="memory for features of a frozen part, made once; 0 makes them anew")
    ] = 4.0
    evaluations: Annotated[
        Count, Field(description="a whole number: how often to look at the held-out records")
    ] = 10
    checkpoint_seconds: Annotated[float, Field(ge=0, description="a number of seconds")] = 15.0
    diagnostics: Annotated[
        bool, Field(description="true or false; true logs the training loss, outside the guarantee")
    ] = False


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """How leakage is measured."""

    __pydantic_config__ = FORBID

    slots: Annotated[Count, Field(description="a whole number such as 24")] = 24
    candidates: Annotated[Annotated[int, Field(ge=2)], Field(description="a whole number such as 10")] = 10
    confidence: Annotated[
        Annotated[float, Field(ge=0.5, lt=1)], Field(description="a probability such as 0.95")
    ] = 0.95
    permutations: Annotated[Annotated[int, Field(ge=100)], Field(description="at least 100")] = 1000
    probes: Annotated[
        Annotated[int, Field(ge=20)],
        Field(description="a whole number such as 400, at most: a coin decides of each if it is used"),
    ] = 400
    mislabelled: Annotated[
        Annotated[float, Field(ge=0, le=1)],
        Field(description="the share of the probes that get a wrong label, such as 0 or 0.1"),
    ] = 0.0
    canaries: Annotated[Count, Field(description="a whole number such as 1000")] = 1000
    canary_norm: Annotated[Positive, Field(description="length of a canary, in max_grad_norm")] = 10.0


Outputs = Literal["weights", "confidences", "top_k", "rounded", "temperature", "labels_only"]


@dataclass(frozen=True, kw_only=True)
class Release:
    """What is given away of the model; with task=audit, also which model: `release=PATH_OR_RUN_ID`."""

    __pydantic_config__ = FORBID

    output: Annotated[
        Outputs, Field(description="weights, confidences, top_k, rounded, temperature or labels_only")
    ] = "weights"
    top_k: Annotated[Count, Field(description="how many of the confidences are shown, such as 1")] = 1
    digits: Annotated[Annotated[int, Field(ge=0)], Field(description="decimals, such as 1")] = 1
    temperature: Annotated[Positive, Field(description="what log-confidences are divided by, such as 4")] = (
        4.0
    )
    compare: Annotated[
        list[Outputs], Field(description="a list such as [top_k,labels_only] that attacks by query meet too")
    ] = field(default_factory=list)
    source: Annotated[
        str | None,
        Field(description="with task=audit or verify: a run folder or id; or weights to audit"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Control:
    """The non-private twin: same data, model, batches and steps; an optimizer that needs no clipping."""

    __pydantic_config__ = FORBID

    enabled: Annotated[
        bool, Field(description="true or false; false trains no twin, so that no attack has a control")
    ] = True
    optimizer: Component = field(default_factory=dict)


Scores = Literal["holdout.accuracy", "holdout.loss", "test.accuracy", "test.auroc", "test.loss"]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep that was stopped goes on with what is missing; one with candidates selects in private.

    With `max_epsilon` no training begins that would bring all of them together beyond it.

    Of a private selection, `trial` is the job's number, which the sweep itself gives.
    """

    __pydantic_config__ = FORBID

    resume: Annotated[str | None, Field(description="the folder of a sweep, with -m")] = None
    max_epsilon: Annotated[
        Positive | None, Field(description="the most that all trainings of a sweep spend together, or null")
    ] = None
    candidates: Annotated[
        dict[str, Annotated[list[Any], Field(min_length=1)]],
        Field(description="a list of values by dotted key, such as {optimizer.lr:[0.1,1]}"),
    ] = field(default_factory=dict)
    distribution: Annotated[
        Literal["geometric", "logarithmic", "negative_binomial", "poisson"],
        Field(description="geometric, logarithmic, negative_binomial or poisson"),
    ] = "geometric"
    mean_runs: Annotated[float, Field(gt=1, le=500, description="above 1, such as 10")] = 10.0
    shape: Annotated[Positive | None, Field(description="a number, with negative_binomial only")] = None
    score: Annotated[Scores, Field(description="a metric on held-out records: holdout.accuracy")] = (
        "holdout.accuracy"
    )
    selection_epsilon: Annotated[
        Positive | None, Field(description="the selected model's epsilon, in place of privacy.epsilon's")
    ] = None
    trial: Count | None = None


@dataclass(frozen=True, kw_only=True)
class Documents:
    """What is written besides the documents that every run leaves."""

    __pydantic_config__ = FORBID

    pdf: Annotated[
        bool, Field(description="true or false; true writes report.pdf too, which needs the extra `pdf`")
    ] = False
    card_measured: Annotated[
        bool,
        Field(description="true or false; true puts what attacks measured of training records on the card"),
    ] = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run."""

    __pydantic_config__ = FORBID

    task: Annotated[
        Literal["train", "audit", "verify"],
        Field(
            description="train; or, of what release=... names, audit: attack it without training it, or "
            "verify: check it against its statement"
        ),
    ] = "train"
    seed: Annotated[int, Field(ge=0, description="a whole number such as 0")] = 0
    deterministic: Annotated[
        bool,
        Field(description="true or false; true draws the noise from the seed, which voids the guarantee"),
    ] = False
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], Field(description="auto, cpu, cuda or mps")] = (
        "auto"
    )
    dtype: Annotated[Literal["float32", "float64"], Field(description="float32 or float64")] = "float32"
    threads: Annotated[Count | None, Field(description="CPU threads, or null for all")] = None
    output: Annotated[str, Field(min_length=1, description="a folder")] = "runs"
    resume: Annotated[str | None, Field(description="a run folder, or latest")] = None
    fail_if: Annotated[
        list[str], Field(description='a list of conditions such as ["leakage.membership.auc.low > 0.6"]')
    ] = field(default_factory=list)
    privacy: Privacy = field(default_factory=Privacy)
    training: Training = field(default_factory=lambda: Training(steps=100))
    evidence: Evidence = field(default_factory=Evidence)
    control: Control = field(default_factory=Control)
    release: Release = field(default_factory=Release)
    sweep: Sweep = field(default_factory=Sweep)
    report: Documents = field(default_factory=Documents)
    data: Component = field(default_factory=dict)
    model: Component = field(default_factory=dict)
    optimizer: Component = field(default_factory=dict)
    mechanism: Component = field(default_factory=dict)
    tracking: Component = field(default_factory=dict)
    attack: dict[str, Component] = field(default_factory=dict)


COMPONENTS = ("data", "model", "optimizer", "mechanism", "tracking")


def defaults() -> dict[str, Any]:
    """Every default, as a plain dictionary: what Hydra composes recipes and overrides onto."""
    return {name: value for name, value in asdict(Config()).items() if value != {}}


def parse(values: Mapping[str, Any], *, complete: bool = True) -> Config:
    """The configuration in these values; raises one ConfigError that names everything wrong with them.

    Secrets that no file keeps must have been given to this process, unless it need not be `complete`.
    """
    problems: list[str] = []
    config = None
    values = revealed(_with_release(values))
    try:
        config = TypeAdapter(Config).validate_python(values)
    except ValidationError as error:
        problems += [_problem(dict(detail)) for detail in error.errors()]
    problems += _privacy_problems({**asdict(Privacy()), **_section(values, "privacy")})
    problems += _training_problems({**asdict(Training()), **_section(values, "training")})
    problems += _component_problems(values)
    problems += _task_problems(values)
    problems += _sweep_problems(values)
    problems += [
        f"{key}={value}: no file keeps its secret; give it again, {key}=..., as it was given before"
        for key, value in masked_keys(values)
        if complete and key != "tracking.uri"  # which may find it elsewhere, or not be needed
    ]
    if config is not None and config.device in ("cuda", "mps") and not _available(config.device):
        problems.append(f"device={config.device} is not available on this machine; use device=auto")
    if problems or config is None:
        raise ConfigError("\n".join(problems))
    return config


def _with_release(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, `release=PATH` being short for `release.source=PATH`."""
    release = values.get("release")
    return {**values, **({"release": {"source": release}} if isinstance(release, str) else {})}


def _task_problems(values: Mapping[str, Any]) -> list[str]:
    source = _section(values, "release").get("source")
    if values.get("task") == "audit" and source is None:
        return ["task=audit needs a model: give release=PATH, a run folder or run id of dptrain, or weights"]
    if values.get("task") == "verify" and source is None:
        return ["task=verify needs a release: give release=PATH, a folder with its statement, or a run id"]
    if values.get("task") not in ("audit", "verify") and source is not None:
        return [
            f"release={source} names a model to attack; add task=audit, or task=verify to check it against "
            "its statement, or leave it out to train one"
        ]
    return []


# What a private selection may vary: sections that shape a training, and neither its records nor its rules.
VARIED = ("model", "optimizer", "mechanism", "training")


def _sweep_problems(values: Mapping[str, Any]) -> list[str]:
    sweep = {**asdict(Sweep()), **_section(values, "sweep")}
    problems = []
    named, shape = sweep["distribution"], sweep["shape"]
    if (named == "negative_binomial") != (shape is not None):
        cure = "give a number above 0" if shape is None else "set it to null"
        problems.append(f"sweep.shape={_shown(shape)} with sweep.distribution={named}: {cure}")
    if not sweep["candidates"]:
        given = [key for key in ("trial", "selection_epsilon") if sweep[key] is not None]
        return problems + [
            f"sweep.{key}={sweep[key]} belongs to a private selection; add +sweep=private_selection, or "
            "leave it out"
            for key in given
        ]
    for key in sweep["candidates"]:
        if str(key).partition(".")[0] not in VARIED or "." not in str(key):
            problems.append(
                f"sweep.candidates: {key} cannot be drawn; give dotted keys below {', '.join(VARIED)}"
            )
        elif not _there(values, str(key)):
            problems.append(
                f"sweep.candidates: {key} is no key of this configuration; `--cfg job` lists them all"
            )
    if sweep["max_epsilon"] is not None:
        problems.append(
            f"sweep.max_epsilon={sweep['max_epsilon']} would refuse trials that a private selection has "
            "drawn, whose epsilon counts them all; set it to null"
        )
    if values.get("deterministic"):
        problems.append(
            "deterministic=true with sweep.candidates: noise drawn from the seed proves nothing, and so a "
            "selection cannot either; set it to false"
        )
    if values.get("fail_if"):
        problems.append(
            f"fail_if={list(values['fail_if'])} would choose by what is measured on training records, which "
            "no selection's epsilon covers; leave it out of a private selection"
        )
    if (tuned_on := _section(values, "privacy").get("tuned_on")) is not None:
        problems.append(
            f"privacy.tuned_on={tuned_on} with sweep.candidates: they are chosen on private records; set it "
            "to null"
        )
    if sweep["selection_epsilon"] is not None and _section(values, "privacy").get("epsilon", 1) is None:
        problems.append(
            f"sweep.selection_epsilon={sweep['selection_epsilon']} finds privacy.epsilon, which is null; "
            "leave out the budget's other target"
        )
    return problems


def _there(values: Mapping[str, Any], key: str) -> bool:
    """Whether a dotted key exists."""
    node: Any = values
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


def _problem(detail: dict[str, Any]) -> str:
    """One line from one of pydantic's errors: key=value, what is wrong, the cure."""
    key = ".".join(part for part in map(str, detail["loc"]) if part not in _BRANCHES)
    if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{key}={_shown(detail['input'])}: no such key; `python -m dptrain --cfg job` lists them all"
    wrong = detail["msg"].removeprefix("Input ")
    cure = _description(key)
    return f"{key}={_shown(detail['input'])} {wrong}" + (f"; give {cure}" if cure else "")


# What pydantic adds to a location when a field may be one of several types.
_BRANCHES = {"float", "int", "constrained-float", "constrained-int", "none"}


def _description(key: str) -> str | None:
    """What the field of this dotted key says that it should be."""
    schema = TypeAdapter(Config).json_schema()
    node: dict[str, Any] = schema
    for part in key.split("."):
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        node = node.get("properties", {}).get(part, {})
    return node.get("description")


TARGETS = ("epsilon", "advantage", "tpr_at_fpr", "noise_multiplier")


def _above(rates: Any) -> bool:
    """Whether these are two numbers, the second larger."""
    return len(rates) == 2 and all(isinstance(rate, float | int) for rate in rates) and rates[0] < rates[1]


def _privacy_problems(privacy: Mapping[str, Any]) -> list[str]:
    problems = []
    accountant = privacy["accountant"]
    given = [name for name in TARGETS if privacy[name] is not None]
    if len(given) != 1:
        told = " and ".join(
            f"privacy.{name}={_shown(privacy[name])}" for name in given or ("epsilon", "noise_multiplier")
        )
        problems.append(f"{told}: give one of {', '.join(TARGETS)} and set the others to null")
    if privacy["tpr_at_fpr"] is not None and not _above(privacy["tpr_at_fpr"]):
        problems.append(
            f"privacy.tpr_at_fpr={list(privacy['tpr_at_fpr'])} asks for less than blind guessing gives; give "
            "a false-positive rate and a larger rate of true positives, such as [0.01,0.05]"
        )
    if accountant != "pld":
        why = "understates epsilon (1.62 for a true 1.83)" if accountant == "gdp" else "is no authority here"
        problems.append(
            f"privacy.accountant={accountant} {why}; use pld, beside which Opacus' rdp and prv are reported"
        )
    return problems


def _training_problems(training: Mapping[str, Any]) -> list[str]:
    problems = []
    batch, rate, steps, epochs, sampling = (
        training[key] for key in ("expected_batch_size", "sample_rate", "steps", "epochs", "sampling")
    )
    if batch is None and rate is None:
        problems.append("training.expected_batch_size=null and training.sample_rate=null: give one of them")
    if (steps is None) == (epochs is None):
        problems.append(
            f"training.steps={_shown(steps)} and training.epochs={_shown(epochs)}: "
            "give one and set the other to null"
        )
    if sampling not in ("poisson", "shuffle"):
        problems.append(
            f"training.sampling={sampling} would draw records at other rates than the plan accounts for; "
            "use poisson (or shuffle, which is accounted without amplification)"
        )
    if sampling == "shuffle" and rate is not None:
        problems.append(
            f"training.sample_rate={rate} has no meaning with training.sampling=shuffle; "
            "set it to null and give training.expected_batch_size"
        )
    return problems


def _section(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name)
    return dict(section) if isinstance(section, Mapping) else {}


def _component_problems(values: Mapping[str, Any]) -> list[str]:
    nodes = {name: values.get(name) for name in COMPONENTS}
    nodes |= {f"attack.{name}": node for name, node in dict(values.get("attack") or {}).items()}
    return [
        f"{key}: the node names no class; give {key}._target_=package.module.Class, or choose a file of conf/"
        for key, node in nodes.items()
        if not (isinstance(node, Mapping) and node.get("_target_"))
    ]


def _available(device: str) -> bool:
    return torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()


def _shown(value: object) -> str:
    return "null" if value is None else str(value)
