#!/usr/bin/env python3
"""What do defences without a proof buy, at equal accuracy? python scripts/bench_regularisation.py

    python scripts/bench_regularisation.py --data Olivetti --rows "dropout .5" --seeds 1
    python scripts/bench_regularisation.py --write README.md

A perceptron on faces (Olivetti at 32 pixels, 40 people, about three images of each to train on) and a small
CNN on 300 records of Fashion-MNIST (of 6,000 in use); records are divided by a keyed hash, anew for each
seed. Each defence is trained by itself, without privacy unless it is DP-SGD, and attacked in this process.
Class inversion climbs the cross-entropy, as published attacks do; an adaptive one climbs the margin, and
averages over masks and codes where a defence draws them; two more ask for confidences and for labels alone.
What counts is the share of classes that an evaluator recognises, a network of another architecture that
learned from other records. Membership is judged by LiRA, whose shadow models are trained as the target was.
The undefended model is trained for several LENGTHS: beside each figure stands by how much it is above that
of an undefended model that was stopped as soon as it was as accurate, interpolated between these; where a
seed's is less accurate than the shortest of them, nothing does. LiRA's threshold is set by the non-members
of the pool, 120 faces or 300 pieces of clothing, and its FPR on others is not known to be as low: it is 1.7
and 1.3 % in the mean, and at most 4.6 and 2.9 %. Intervals are over seeds, at 95 %.
What was measured before lies in --output and is read from there. DPTRAIN_DATA names
a folder of olivetti64.npz and mnist.npz; --fashion one of Fashion-MNIST's idx files. About forty minutes
of one core that is busy with other work too.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
from defended import COMMON, FROZEN, SETS, SHOWN, Measured, attacked, pretrained
from measured import options, show

from dptrain.evidence.repeats import Spread, spread

BEGIN, END = "<!-- regularisation: python scripts/bench_regularisation.py -->", "<!-- /regularisation -->"
DEBIAN = "/usr/share/datasets/fashion-mnist"
CONFIDENCE = 0.95
LENGTHS = (0.1, 0.2, 0.4, 1.0)  # of the undefended training, over that of all others
SHARE = (0.0, 1.0)
METRICS = {
    "by_loss": "inversion by loss",
    "adaptive": "adaptive",
    "by_queries": "by confidences",
    "by_labels": "by labels",
    "tpr": "LiRA, TPR at 1 % FPR asked for",
}

NONE = "none"
NO_MATCH = "no undefended model so inaccurate"
DEFENCES: dict[str, tuple[str, ...]] = {
    NONE: (),
    "dropout .5": ("regulariser=[dropout]",),
    "weight decay": ("regulariser=[weight_decay]",),
    "early stopping": ("regulariser=[early_stopping]", "training.evaluations=15"),
    "label smoothing .1": ("regulariser=[label_smoothing]",),
    "label smoothing -.05": ("regulariser=[negative_label_smoothing]",),
    "BiDO (HSIC)": ("regulariser=[bido]",),
    "BiDO, 40 times as strong": (
        "regulariser=[bido]",
        "regulariser.bido.inputs=2",
        "regulariser.bido.labels=20",
    ),
    "mix-up .4": ("regulariser=[mix_up]",),
    "bottleneck (MID)": ("regulariser=[bottleneck]",),
    "half the width": ("regulariser=[smaller]",),
}


def main(arguments: list[str] | None = None) -> int:
    """Print a table for each data set; 2 where none of the data are there."""
    parser = options(__doc__ or "", output="runs/regularisation")
    parser.add_argument("--data", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument(
        "--rows", nargs="*", metavar="DEFENCE", help=f"some of: {'; '.join(DEFENCES)}; DP-SGD"
    )
    parser.add_argument("--fashion", type=Path, default=Path(DEBIAN), help=f"idx files (default {DEBIAN})")
    parser.add_argument("--kept", action="store_true", help="train nothing: tell what lies in --output")
    asked = parser.parse_args(arguments)
    lines: list[tuple[str, ...]] = []
    for name in asked.data:
        folder = asked.fashion if name == "Fashion-MNIST" else Path(os.environ.get("DPTRAIN_DATA", "."))
        if not any(folder.glob("olivetti64.npz" if name == "Olivetti" else "train-images-idx3-ubyte.gz")):
            print(f"left out: {name}, for its data are missing", file=sys.stderr)
            continue
        asking = partial(
            measured, folder=folder, output=asked.output, more=asked.override, make=not asked.kept
        )
        each = {
            row: [asking(name, row, words, seed) for seed in range(asked.seeds)]
            for row, words in rows(name, asked.rows)
        }
        found = {row: [one for one in several if one is not None] for row, several in each.items()}
        if missing := [row for row, several in found.items() if len(several) < asked.seeds]:
            print(f"{name}: not all seeds are there of {', '.join(missing)}", file=sys.stderr)
        found = {row: several for row, several in found.items() if row not in missing}
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
    name: str,
    row: str,
    words: Sequence[str],
    seed: int,
    *,
    folder: Path,
    output: Path,
    more: Sequence[str],
    make: bool = True,
) -> Measured | None:
    """One model trained and attacked, or what was found when it was; None where it may not be made."""
    some = SETS[name]
    asked = [*later((*COMMON, *some.words), words), f"seed={seed}", *more]
    kept = output / f"{hashlib.sha256(json.dumps([name, row, asked]).encode()).hexdigest()[:20]}.json"
    if not kept.exists():
        if not make:
            return None
        print(f"{name}: {row}, seed {seed}", file=sys.stderr, flush=True)
        output.mkdir(parents=True, exist_ok=True)
        data = output / f"{name}_{seed}.npz"
        if not data.exists():
            np.savez(data, **some.make(folder, seed))
        classes = ",".join(f"c{each}" for each in range(some.classes))
        asked += ["data=npz", f"data.path={data}", f"data.classes=[{classes}]", f"output={output}"]
        if row == FROZEN:
            asked.append(f"model.weights={pretrained(output)}")
        kept.write_text(json.dumps(asdict(attacked(row, some.shadows, asked))))
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


# ---------------------------------------------------------------------- the table


def told(name: str, found: Mapping[str, Sequence[Measured]]) -> Iterator[tuple[str, ...]]:
    """One line of cells a defence."""
    lengths = [found[row] for row in (*map(_shorter, LENGTHS[:-1]), NONE)]
    for row, each in found.items():
        bound = row.partition("epsilon ")[2]
        accuracy = [one.accuracy for one in each]
        plain = row == NONE or row.startswith(f"{NONE},")
        cells = (
            cell([getattr(one, metric) for one in each], [] if plain else beside(each, lengths, metric))
            for metric in METRICS
        )
        told_bound = f"epsilon {bound}" if bound else "no bound"
        yield (
            f"{name}, {row.partition(', epsilon')[0]}",
            told_bound,
            text(spread(accuracy, CONFIDENCE, within=SHARE)),
            *cells,
        )


def beside(
    each: Sequence[Measured], lengths: Sequence[Sequence[Measured]], metric: str
) -> list[float] | None:
    """What the metric is above that of an undefended model of the same accuracy, a seed.

    None where in some seed there is none: what the other seeds tell would be of other models.
    """
    found = []
    for seed, one in enumerate(each):
        level = matched(one.accuracy, [length[seed] for length in lengths], metric)
        if level is None:
            return None
        found.append((getattr(one, metric) or 0.0) - level)
    return found


def matched(accuracy: float, lengths: Sequence[Measured], metric: str) -> float | None:
    """The metric of an undefended model that was stopped when it was as accurate, between measured lengths.

    Of one that never is so accurate, the metric where it is most accurate. None where it was more accurate
    from the shortest length on: how it leaked before is not known.
    """
    if accuracy < min(length.accuracy for length in lengths):
        return None
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
    """A value over seeds with its interval, and the difference with its own.

    `differences` is empty where none is asked for, and None where there is nothing to be held against.
    """
    known = [value for value in values if value is not None]
    if not known:
        return "not shown"
    shown = text(spread(known, CONFIDENCE, within=SHARE))
    if differences is None:
        return f"{shown}; {NO_MATCH}"
    return f"{shown}; {text(spread(differences, CONFIDENCE), '+.2f')}" if differences else shown


def text(found: Spread, form: str = ".2f") -> str:
    """Centre and interval; the seeds' ends where they allow none."""

    def told(*numbers: float) -> list[str]:
        return [format(round(number, 2) + 0.0, form) for number in numbers]  # of -0.00 no sign

    if found.interval is None:
        value, low, high = told(fmean(found.values), min(found.values), max(found.values))
        return f"{value} ({low} to {high})"
    value, low, high = told(found.centre, found.interval.low, found.interval.high)
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    raise SystemExit(main())
