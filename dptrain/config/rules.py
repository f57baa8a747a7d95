"""Rules that keys of the configuration obey together, one function a section: what is wrong, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dptrain.config.schema import RENAMED, Release, Sweep

COMPONENTS = ("data", "model", "optimizer", "mechanism", "tracking")


def task_problems(values: Mapping[str, Any]) -> list[str]:
    release = section(values, "release")
    source = release.get("source")
    served = is_url(source)
    if served and values.get("task") != "audit":
        return [f"release={source} is a service; add task=audit to attack it, or leave it out"]
    if not served and (given := [name for name in ("key_env", "run") if release.get(name) is not None]):
        return [f"release.{given[0]}={release[given[0]]} belongs to a service; give release=http://HOST:PORT"]
    if problems := service_problems(values, served=served):
        return problems
    if values.get("task") == "audit" and source is None:
        return ["task=audit needs a model: give release=PATH, a run folder or run id of dptrain, or weights"]
    if values.get("task") == "verify" and source is None:
        return ["task=verify needs a release: give release=PATH, a folder with its statement, or a run id"]
    if values.get("task") == "serve" and source is None:
        return [
            "task=serve needs a model: give release=latest, release=PATH, a run folder or run id, or weights"
        ]
    if values.get("task") not in ("audit", "verify", "serve") and source is not None:
        return [
            f"release={source} names a model to attack; add task=audit, or task=verify to check it against "
            "its statement, or task=serve to serve it, or leave it out to train one"
        ]
    return []


def service_problems(values: Mapping[str, Any], *, served: bool) -> list[str]:
    """What is wrong with a service that is attacked: one that is there, or one for the audit alone."""
    release, own = {**asdict(Release()), **section(values, "release")}, asdict(Release())
    if not release["serve"]:
        named = ("keys", "tenants") if served else ("keys", "tenants", "at_once", "pause_seconds")
        cure = "give several keys in release.key_env" if served else "add release.serve=true"
        return [
            f"release.{name}={release[name]} belongs to a service of the audit's own; {cure}, or leave it out"
            for name in named
            if release[name] != own[name]
        ]
    if values.get("task") != "audit" or served:
        return ["release.serve=true serves a model while it is attacked; add task=audit and release=RUN"]
    problems = []
    if release["tenants"] > release["keys"]:
        problems.append(
            f"release.tenants={release['tenants']} have a key each at least; give release.keys="
            f"{release['tenants']} or more"
        )
    serve = section(values, "serve")
    for name, only in (("workers", 1), ("store", None), ("folder", None), ("keys", True)):
        if serve.get(name, only) != only:
            problems.append(
                f"serve.{name}={shown(serve[name])} is for a service that stays; release.serve=true starts "
                "one in the audit's folder, of one process and with keys; leave it out"
            )
    return problems


def is_url(source: object) -> bool:
    """Whether a release is the address of a service.

    >>> is_url("http://127.0.0.1:8000"), is_url("runs/one"), is_url(None)
    (True, False, False)
    """
    return isinstance(source, str) and source.startswith(("http://", "https://"))


# What a private selection may vary: sections that shape a training, and neither its records nor its rules.
VARIED = ("model", "optimizer", "mechanism", "training", "regulariser")


def sweep_problems(values: Mapping[str, Any]) -> list[str]:
    sweep = {**asdict(Sweep()), **section(values, "sweep")}
    problems = []
    named, shape = sweep["distribution"], sweep["shape"]
    if (named == "negative_binomial") != (shape is not None):
        cure = "give a number above 0" if shape is None else "set it to null"
        problems.append(f"sweep.shape={shown(shape)} with sweep.distribution={named}: {cure}")
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
        elif not present(values, str(key)):
            problems.append(
                f"sweep.candidates: {key} is no key of this configuration; `--cfg job` lists them all"
            )
    if sweep["max_epsilon"] is not None:
        problems.append(
            f"sweep.max_epsilon={sweep['max_epsilon']} would refuse trials that a private selection has "
            "drawn, whose epsilon counts them all; set it to null"
        )
    if (registered := section(values, "tracking").get("register")) is not None:
        problems.append(
            f"tracking.register={registered} would pass on every trial of a private selection; set it to "
            "null, and register the model that is selected"
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
    if (tuned_on := section(values, "privacy").get("tuned_on")) is not None:
        problems.append(
            f"privacy.tuned_on={tuned_on} with sweep.candidates: they are chosen on private records; set it "
            "to null"
        )
    if sweep["selection_epsilon"] is not None and section(values, "privacy").get("epsilon", 1) is None:
        problems.append(
            f"sweep.selection_epsilon={sweep['selection_epsilon']} finds privacy.epsilon, which is null; "
            "leave out the budget's other target"
        )
    return problems


def present(values: Mapping[str, Any], key: str) -> bool:
    """Whether a dotted key exists."""
    node: Any = values
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


TARGETS = ("epsilon", "advantage", "tpr_at_fpr", "noise_multiplier")


def _above(rates: Any) -> bool:
    """Whether these are two numbers, the second larger."""
    return len(rates) == 2 and all(isinstance(rate, float | int) for rate in rates) and rates[0] < rates[1]


def privacy_problems(privacy: Mapping[str, Any]) -> list[str]:
    problems = []
    accountant = privacy["accountant"]
    given = [name for name in TARGETS if privacy[name] is not None]
    if len(given) != 1:
        keys = " and ".join(
            f"privacy.{name}={shown(privacy[name])}" for name in given or ("epsilon", "noise_multiplier")
        )
        problems.append(f"{keys}: give one of {', '.join(TARGETS)} and set the others to null")
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


def training_problems(training: Mapping[str, Any]) -> list[str]:
    problems = []
    batch, rate, steps, epochs, sampling = (
        training[key] for key in ("expected_batch_size", "sample_rate", "steps", "epochs", "sampling")
    )
    if batch is None and rate is None:
        problems.append("training.expected_batch_size=null and training.sample_rate=null: give one of them")
    if (steps is None) == (epochs is None):
        problems.append(
            f"training.steps={shown(steps)} and training.epochs={shown(epochs)}: "
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


def section(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name)
    return dict(section) if isinstance(section, Mapping) else {}


def component_problems(values: Mapping[str, Any]) -> list[str]:
    nodes = {name: values.get(name) for name in COMPONENTS}
    for group in ("attack", "game", "regulariser", "serving"):
        nodes |= {f"{group}.{name}": node for name, node in section(values, group).items()}
    return [
        f"{key}: the node names no class; give {key}._target_=package.module.Class, or choose a file of conf/"
        for key, node in nodes.items()
        if not (isinstance(node, Mapping) and node.get("_target_"))
    ]


def renamed(asked: str) -> str:
    """What is wrong with `key=value`, or with a word of the command line, whose key has another name now.

    >>> renamed("training.prefetch=3")
    'training.prefetch=3 is now performance.prefetch; rename it'
    """
    return f"{asked} is now {RENAMED[key_of(asked)]}; rename it"


def key_of(word: str) -> str:
    """The dotted key that a word of the command line is about, without Hydra's marks and packages.

    >>> key_of("++threads=2"), key_of("attack@mine=one"), key_of("~threads")
    ('threads', 'attack', 'threads')
    """
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


def shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
