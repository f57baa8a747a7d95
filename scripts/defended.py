"""Small models with a defence each, trained and attacked in this process: what a script makes a table of."""

from __future__ import annotations

import copy
import gzip
import hashlib
import hmac
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
from dptrain.contracts import Attack, Context, Output, Progress, Records, Release, Splits, Targets
from dptrain.evaluation.games.class_inversion.evaluator import Evaluator, train_evaluator
from dptrain.evaluation.games.membership.game import counts_at
from dptrain.evaluation.shadows import ShadowTrainer
from dptrain.evaluation.utility import measure_utility
from dptrain.models.output import LabelsOnly, Rounded
from dptrain.pipeline import cache_keys
from dptrain.runs.cache import Cache

QUERIES, CONFIDENCE = 20_000, 0.95
LIMITS: dict[str, Any] = {  # of white boxes
    "restarts": 2,
    "keep": 1,
    "steps": 100,
    "learning_rate": 0.05,
    "copies": 1,
    "trials": 4,
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


FROZEN = "frozen layers of MNIST"
DRAWING = ("dropout .5", "bottleneck (MID)")  # whose masks or codes the adaptive attack averages over
LABELS, JUDGED = "labels only", 250  # steps of the evaluator
SHOWN: dict[str, Output] = {LABELS: LabelsOnly(), "rounded to .1": Rounded(digits=1)}


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


@contextmanager
def quietly(_: str) -> Iterator[Progress]:
    """Nobody is shown how far a training is."""
    yield lambda **_: None


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
            show=quietly,
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
    climbs: dict[str, Attack | None] = {
        "by_loss": ClassInversion(objective="loss", **LIMITS) if output is None else None,
        "adaptive": ClassInversion(draws=row in DRAWING, **LIMITS) if output is None else None,
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
