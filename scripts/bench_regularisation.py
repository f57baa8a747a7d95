#!/usr/bin/env python3
"""What do defences without a proof buy, at equal accuracy? python scripts/bench_regularisation.py

    python scripts/bench_regularisation.py --data Olivetti --rows dropout --seeds 1
    python scripts/bench_regularisation.py --write README.md

A perceptron on faces (Olivetti at 32 pixels, 40 people, of each about three images to train on) and a small CNN
on 300 records of Fashion-MNIST (of 6,000 in use); records are divided by a keyed hash, anew for each seed. Each
defence is trained by itself, without privacy unless it is DP-SGD, and attacked in this process. Class inversion
climbs the cross-entropy, as published attacks do; an adaptive one climbs the margin, and averages over masks and
codes where a defence draws them; two more ask for confidences and for labels alone, within QUERIES queries each.
What counts is the share of classes that an evaluator recognises, a network of another architecture on other
records. Membership is judged by LiRA, whose shadow models are trained as the target was. The undefended model is
trained for several LENGTHS: beside each figure stands by how much it is above that of an undefended model that
was stopped as soon as it was as accurate, interpolated between these. Intervals are over seeds, at 95 %. What was
measured before lies in --output and is read from there. DPTRAIN_DATA names a folder of olivetti64.npz and
mnist.npz; --fashion one of Fashion-MNIST's idx files.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import hmac
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from measured import options, show

from dptrain.api import _order
from dptrain.assembly.components import Parts, assemble
from dptrain.assembly.model import make_model
from dptrain.assembly.records import load_splits
from dptrain.assembly.values import make_budget, make_context
from dptrain.attacks.class_inversion import ClassInversion
from dptrain.attacks.label_inversion import LabelInversion
from dptrain.attacks.lira import Lira
from dptrain.attacks.query_inversion import QueryInversion
from dptrain.config import Config, parse
from dptrain.contracts import Attack, Context, Output, Records, Release, Splits, Targets
from dptrain.evaluation.games.class_inversion.evaluator import Evaluator, train_evaluator
from dptrain.evaluation.games.membership.game import counts_at
from dptrain.evaluation.shadows import ShadowTrainer, _nowhere
from dptrain.evaluation.utility import measure_utility
from dptrain.evidence.repeats import Spread, spread
from dptrain.models.output import LabelsOnly, Rounded
from dptrain.pipeline import cache_keys
from dptrain.runs.cache import Cache

BEGIN, END = "<!-- regularisation: python scripts/bench_regularisation.py -->", "<!-- /regularisation -->"
DEBIAN = "/usr/share/datasets/fashion-mnist"
QUERIES, CONFIDENCE = 20_000, 0.95
LENGTHS = (0.1, 0.2, 0.4, 1.0)  # of the undefended training, over that of all others
SHARE = (0.0, 1.0)
METRICS = {
    "by_loss": "inversion by loss",
    "adaptive": "adaptive",
    "by_queries": "by confidences",
    "by_labels": "by labels",
    "tpr": "LiRA, TPR at 1 % FPR",
}
COMMON = (
    "mechanism=non_private",
    "control.enabled=false",
    "optimizer=sgd",
    "optimizer.lr=0.1",
    "training.average_decay=0",
    "training.evaluations=1",
    "attack=[]",
    "tracking=none",
    "device=cpu",
)
CNN = ("model=small_cnn", "model.channels=[8,16]", "model.strides=[2,2]")


@dataclass(frozen=True, kw_only=True)
class Set:
    """Records to train on: how they are made, and the words of a run on them."""

    make: Callable[[Path, int], dict[str, np.ndarray]]  # of the folder that holds them, and a seed
    classes: int
    words: tuple[str, ...]
    shadows: int
    epsilons: tuple[float, ...]
    private: tuple[str, ...]  # words of DP-SGD
    frozen: tuple[str, ...] | None = None  # words of a model whose first layers were trained elsewhere


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of one model; None: not offered."""

    accuracy: float
    by_loss: float | None
    adaptive: float | None
    by_queries: float | None
    by_labels: float | None
    tpr: float | None


def faces(folder: Path, seed: int) -> dict[str, np.ndarray]:
    """Olivetti faces at 32 pixels, each person's divided by a keyed hash of the image."""
    with np.load(folder / "olivetti64.npz") as held:
        images, labels = held["images"], held["labels"].astype(np.int64)
    small = images.reshape(-1, 32, 2, 32, 2).mean((2, 4)).round().astype(np.uint8)
    part = np.empty(len(labels), dtype=object)
    for person in range(40):
        mine = np.flatnonzero(labels == person)
        ranked = mine[np.argsort([_hashed(small[at], seed) for at in mine])]
        for name, chosen in zip(PARTS, np.split(ranked, np.cumsum(list(PARTS.values()))[:-1]), strict=True):
            part[chosen] = name
    return _arrays(small, labels, part)


def clothes(folder: Path, seed: int) -> dict[str, np.ndarray]:
    """6,000 records of Fashion-MNIST's training part, chosen and divided by a keyed hash of the image."""
    images = _idx(folder / "train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = _idx(folder / "train-labels-idx1-ubyte.gz", 8).astype(np.int64)
    some = np.arange(0, len(labels), 5)  # hashing all of them would take a second, and change nothing
    chosen = some[np.argsort([_hashed(images[at], seed) for at in some])][:6000]
    part = np.repeat(np.array(list(PARTS), dtype=object), [600, 400, 5000])
    return _arrays(images[chosen], labels[chosen], part)


PARTS = {"train": 6, "val": 1, "test": 3}  # of each person's images; half of the first are trained on


def _hashed(image: np.ndarray, seed: int) -> bytes:
    return hmac.digest(seed.to_bytes(8, "little"), image.tobytes(), hashlib.sha256)


def _idx(path: Path, header: int) -> np.ndarray:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), dtype=np.uint8)[header:]


def _arrays(images: np.ndarray, labels: np.ndarray, part: np.ndarray) -> dict[str, np.ndarray]:
    return {
        f"{name}_{kind}": values[part == name]
        for name in PARTS
        for kind, values in (("images", images), ("labels", labels))
    }


SETS = {
    "Olivetti": Set(
        make=faces,
        classes=40,
        words=(
            "model=mlp",
            "model.widths=[128]",
            "data.mean=[0.42]",
            "data.std=[0.2]",
            "training.expected_batch_size=100",
            "training.steps=80",
        ),
        shadows=8,
        epsilons=(8, 100),
        private=("training.steps=60", "optimizer.lr=0.5", "mechanism.audit_sensitivity=false"),
    ),
    "Fashion-MNIST": Set(
        make=clothes,
        classes=10,
        words=(
            *CNN,
            "data.mean=[0.29]",
            "data.std=[0.35]",
            "training.expected_batch_size=100",
            "training.steps=100",
        ),
        shadows=6,
        epsilons=(8, 100),
        private=(
            "training.expected_batch_size=200",
            "training.steps=60",
            "optimizer.lr=0.5",
            "mechanism.audit_sensitivity=false",
        ),
        frozen=("model=small_cnn_pretrained", *CNN[1:], "model.trained_on=MNIST"),
    ),
}
NONE = "none"
DEFENCES: dict[str, tuple[str, ...]] = {
    NONE: (),
    "dropout .5": ("regulariser=[dropout]",),
    "weight decay": ("regulariser=[weight_decay]",),
    "early stopping": ("regulariser=[early_stopping]", "training.evaluations=15"),
    "label smoothing .1": ("regulariser=[label_smoothing]",),
    "label smoothing -.05": ("regulariser=[negative_label_smoothing]",),
    "BiDO (HSIC)": ("regulariser=[bido]",),
    "mix-up .4": ("regulariser=[mix_up]",),
    "bottleneck (MID)": ("regulariser=[bottleneck]",),
    "half the width": ("regulariser=[smaller]",),
}
FROZEN = "frozen layers of MNIST"
DRAWING = ("dropout .5", "bottleneck (MID)")  # whose masks or codes the adaptive attack averages over
LABELS, JUDGED = "labels only", 250  # steps of the evaluator
SHOWN: dict[str, Output] = {LABELS: LabelsOnly(), "rounded to .1": Rounded(digits=1)}


def main(arguments: list[str] | None = None) -> int:
    """Print a table for each data set; 2 where none of the data are there."""
    parser = options(__doc__ or "", output="runs/regularisation")
    parser.add_argument("--data", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument(
        "--rows", nargs="*", metavar="DEFENCE", help=f"some of: {'; '.join(DEFENCES)}; DP-SGD"
    )
    parser.add_argument("--fashion", type=Path, default=Path(DEBIAN), help=f"idx files (default {DEBIAN})")
    asked = parser.parse_args(arguments)
    lines = []
    for name in asked.data:
        folder = asked.fashion if name == "Fashion-MNIST" else Path(os.environ.get("DPTRAIN_DATA", "."))
        if not any(folder.glob("olivetti64.npz" if name == "Olivetti" else "train-images-idx3-ubyte.gz")):
            print(f"left out: {name}, for its data are missing", file=sys.stderr)
            continue
        found = {
            row: [
                measured(name, row, words, seed, folder, asked.output, asked.override)
                for seed in range(asked.seeds)
            ]
            for row, words in rows(name, asked.rows)
        }
        lines += list(told(name, found))
    if not lines:
        return 2
    show(("data, defence", "bound", "accuracy", *METRICS.values()), lines, asked.write, BEGIN, END)
    return 0


def rows(name: str, chosen: Sequence[str] | None) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The rows of a data set, with the words that tell them apart."""
    steps = int(_value(SETS[name].words, "training.steps"))
    for share in LENGTHS[:-1]:
        yield _shorter(share), (f"training.steps={round(share * steps)}",)
    for row, words in DEFENCES.items():
        if not chosen or row in (*chosen, NONE):
            yield row, words
    frozen = SETS[name].frozen
    if frozen is not None and (not chosen or FROZEN in chosen):
        yield FROZEN, frozen
    for row in SHOWN:
        if not chosen or row in chosen:
            yield row, ()
    for epsilon in SETS[name].epsilons:
        if not chosen or "DP-SGD" in chosen:
            words = ("mechanism=dpsgd", f"privacy.epsilon={epsilon:g}", *SETS[name].private)
            yield f"DP-SGD, epsilon {epsilon:g}", words


def _shorter(share: float) -> str:
    return f"{NONE}, {share:g} of the steps"


def _value(words: Sequence[str], key: str) -> str:
    return next(word.partition("=")[2] for word in words if word.startswith(f"{key}="))


# ---------------------------------------------------------------------- one model


def measured(
    name: str, row: str, words: Sequence[str], seed: int, folder: Path, output: Path, more: Sequence[str]
) -> Measured:
    """One model trained and attacked, or what was found when it was."""
    output.mkdir(parents=True, exist_ok=True)
    data, some = output / f"{name}_{seed}.npz", SETS[name]
    if not data.exists():
        np.savez(data, **some.make(folder, seed))
    if row == FROZEN:
        words = (*words, f"model.weights={pretrained(output)}")
    classes = ",".join(f"c{each}" for each in range(some.classes))
    source = ("data=npz", f"data.path={data}", f"data.classes=[{classes}]")
    asked = [*later((*COMMON, *some.words), words), *source, f"seed={seed}", *more]
    kept = output / f"{hashlib.sha256(json.dumps([row, asked]).encode()).hexdigest()[:20]}.json"
    if not kept.exists():
        print(f"{name}: {row}, seed {seed}", file=sys.stderr, flush=True)
        found = attacked(row, some.shadows, [*asked, f"output={output}"])
        kept.write_text(json.dumps(asdict(found)))
    return Measured(**json.loads(kept.read_text()))


def later(words: Sequence[str], others: Sequence[str]) -> list[str]:
    """Words of the command line, those left out that the others say anew.

    >>> later(["model=mlp", "model.widths=[8]", "seed=1"], ["model=small_cnn"])
    ['seed=1', 'model=small_cnn']
    """
    keys = {word.partition("=")[0] for word in others}
    groups = tuple(f"{key}." for key in keys & {"model"})
    kept = [
        word for word in words if word.partition("=")[0] not in keys and not word.startswith(groups or "\0")
    ]
    return [*kept, *others]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A training and its records, of whose pool a random half is trained on."""

    config: Config
    parts: Parts
    splits: Splits  # with that half as the training records
    pool: Records
    members: torch.Tensor  # (pool,) bool
    context: Context
    shadows: ShadowTrainer

    @classmethod
    def of(cls, words: Sequence[str]) -> Bench:
        config = parse(_order("quickstart", words, None).config)
        torch.set_num_threads(1)
        parts, context = assemble(config), make_context(config)
        whole = load_splits(parts.source, context.streams)
        pool, nobody = whole.train, torch.zeros(0, dtype=torch.int64)
        order = torch.randperm(len(pool), generator=context.streams.seeded("members"))
        members = order < len(pool) // 2
        splits = replace(whole, train=pool.take(members.nonzero().squeeze(1)))
        own = context.streams.seeded("shadows").initial_seed()
        shadows = ShadowTrainer(
            mechanism=parts.mechanism,
            plain=parts.plain,
            model=make_model(config, parts.mechanism, splits, context.streams),
            known=replace(whole, train=pool.take(nobody)),
            probes=pool,
            budget=make_budget(config, splits),
            context=replace(context, streams=replace(context.streams, seed=own)),
            recipe=cache_keys.recipe(config),
            cache=Cache(Path(config.output) / "cache"),
            show=_nowhere,
        )
        return cls(
            config=config,
            parts=parts,
            splits=splits,
            pool=pool,
            members=members,
            context=context,
            shadows=shadows,
        )

    def train(self) -> Release:
        """The target, trained on its half of the pool."""
        model, budget = self.shadows.model, self.shadows.budget
        release, _ = self.parts.mechanism.fit(copy.deepcopy(model), self.splits, budget, self.context)
        return release


def attacked(row: str, shadows: int, words: Sequence[str]) -> Measured:
    """Train the model that these words ask for, and attack it in every way that the row allows."""
    bench, output = Bench.of(words), SHOWN.get(row)
    release = bench.train()
    accuracy = measure_utility(release, bench.splits, confidence=CONFIDENCE, as_they_are=True).accuracy
    release, evaluator = replace(release, output=output), evaluator_of(bench)
    limits = {"restarts": 2, "keep": 1, "steps": 100, "copies": 1, "trials": 4}
    climbs: dict[str, Attack | None] = {
        "by_loss": ClassInversion(objective="loss", **limits) if output is None else None,
        "adaptive": ClassInversion(draws=row in DRAWING, **limits) if output is None else None,
        "by_queries": QueryInversion(queries=QUERIES, restarts=1, keep=1) if row != LABELS else None,
        "by_labels": LabelInversion(queries=QUERIES, keep=1),
    }
    targets = Targets.of(bench.splits)
    found = {}
    for each, attack in climbs.items():
        if attack is None:
            found[each] = None
            continue
        images = attack.run(release, targets, bench.context.streams.seeded("inversion"))
        found[each] = float((evaluator.classify(images.inputs) == images.labels).double().mean())
    return Measured(accuracy=accuracy.value, tpr=true_positives(bench, release, shadows), **found)


_EVALUATORS: dict[str, Evaluator] = {}


def evaluator_of(bench: Bench) -> Evaluator:
    """A judge of these classes, which has learned from the test records and no defence has a say in.

    How good it is, is told by the pool, of which it has seen nothing.
    """
    splits = bench.splits
    name = splits.test.hashed().hexdigest()
    if name not in _EVALUATORS:
        judged = replace(splits, holdout=splits.test, test=bench.pool)
        _EVALUATORS[name] = train_evaluator(judged, bench.context.streams.seeded("judge"), steps=JUDGED)
        print(f"evaluator: {_EVALUATORS[name].accuracy:.3f} of the pool", file=sys.stderr, flush=True)
    return _EVALUATORS[name]


def true_positives(bench: Bench, release: Release, shadows: int) -> float:
    """LiRA's share of members above the threshold that lets 1 % of the non-members through."""
    attack = Lira(shadows=shadows, private_shadows=True)
    targets = Targets.of(bench.splits, probes=bench.pool)
    targets = replace(targets, shadows=bench.shadows)
    scores = attack.run(release, targets, bench.context.streams.seeded("lira")).scores
    found = counts_at(scores, bench.members, 0.01, CONFIDENCE)
    return found.true_positives / found.members


def pretrained(output: Path) -> Path:
    """Weights of the same network, trained on MNIST."""
    kept = output / "mnist_cnn.pt"
    if not kept.exists():
        words = [*COMMON, *CNN, "data=mnist", "training.expected_batch_size=64", "training.steps=400"]
        bench = Bench.of([*words, f"output={output}"])
        torch.save(dict(bench.train().weights or {}), kept)
    return kept


# ---------------------------------------------------------------------- the table


def told(name: str, found: Mapping[str, Sequence[Measured]]) -> Iterator[tuple[str, ...]]:
    """One line of cells a defence."""
    lengths = [found[row] for row in (*map(_shorter, LENGTHS[:-1]), NONE)]
    for row, each in found.items():
        bound = row.partition("epsilon ")[2]
        accuracy = [one.accuracy for one in each]
        plain = row == NONE or row.startswith(f"{NONE},")
        cells = (
            cell([getattr(one, metric) for one in each], None if plain else beside(each, lengths, metric))
            for metric in METRICS
        )
        told_bound = f"epsilon {bound}" if bound else "no bound"
        yield (
            f"{name}, {row.partition(', epsilon')[0]}",
            told_bound,
            text(spread(accuracy, CONFIDENCE, within=SHARE)),
            *cells,
        )


def beside(each: Sequence[Measured], lengths: Sequence[Sequence[Measured]], metric: str) -> list[float]:
    """What the metric is above that of an undefended model of the same accuracy, a seed."""
    return [
        (getattr(one, metric) or 0.0) - matched(one.accuracy, [length[seed] for length in lengths], metric)
        for seed, one in enumerate(each)
    ]


def matched(accuracy: float, lengths: Sequence[Measured], metric: str) -> float:
    """The metric of an undefended model that was stopped when it was as accurate, between the lengths measured.

    Of one that never is, the metric where it is most accurate; of one that always is, of the shortest.
    """
    before = None
    for length in lengths:
        value = float(getattr(length, metric))
        if length.accuracy >= accuracy:
            if before is None or before.accuracy >= length.accuracy:
                return value
            share = (accuracy - before.accuracy) / (length.accuracy - before.accuracy)
            return share * value + (1 - share) * float(getattr(before, metric))
        if before is None or length.accuracy > before.accuracy:
            before = length
    assert before is not None
    return float(getattr(before, metric))


def cell(values: Sequence[float | None], differences: Sequence[float] | None) -> str:
    """A value over seeds with its interval, and the difference with its own."""
    known = [value for value in values if value is not None]
    if not known:
        return "not shown"
    shown = text(spread(known, CONFIDENCE, within=SHARE))
    return shown if differences is None else f"{shown}; {text(spread(differences, CONFIDENCE), '+.2f')}"


def text(found: Spread, form: str = ".2f") -> str:
    """Centre and interval; the seeds' ends where they allow none."""
    if found.interval is None:
        return f"{fmean(found.values):{form}} ({min(found.values):{form}} to {max(found.values):{form}})"
    return f"{found.centre:{form}} [{found.interval.low:{form}}, {found.interval.high:{form}}]"


if __name__ == "__main__":
    raise SystemExit(main())
