#!/usr/bin/env python3
"""How near the reconstruction attack comes to its bound, on MNIST: python scripts/bench_reconstruction.py

The experiment of Hayes et al. 2023 ("Bounding Training Data Reconstruction in DP-SGD", section 4): 500
records are known to the adversary and one is drawn, by a coin, from N candidates; a two-layer network is
trained on all 501 in full batches, and the adversary names the one. Many small trainings, each with fresh
coins and fresh noise, make independent trials.

With --slots K it asks something else: many records planted in *one* training share its noise, so how many
independent trials are they worth? The spread of the number of successes over many trainings on the same
records is set beside what `effective_slots` foretold from within each training.

Reads mnist.npz from --data or from the folder DPTRAIN_DATA.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain

import torch
from scipy.integrate import quad
from scipy.stats import chi2, norm
from torch import Tensor, nn

from dptrain.attacks.instance_reconstruction import TranscriptReconstruction, WeightsReconstruction
from dptrain.contracts import (
    BrokenGuarantee,
    Budget,
    Context,
    DataError,
    DptrainError,
    Guarantee,
    Mechanism,
    Release,
    Slots,
    Splits,
    Streams,
    Targets,
)
from dptrain.data.files import find
from dptrain.data.vision import TorchvisionSet
from dptrain.evaluation.games.reconstruction.game import SlotAssignment
from dptrain.evidence.intervals import clopper_pearson, proportion
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.models.normalise import Normalise
from dptrain.privacy.guarantee import DPGuarantee
from dptrain.privacy.noise.keys import Stream
from dptrain.privacy.plan import Rates
from dptrain.tracking import NullRun
from dptrain.training.settings import Settings

DELTA = 1e-5
KNOWN = 500  # records that the adversary has
BACKGROUND = 1000  # further records of the population, for the adversary's reference model
CONFIDENCE = 0.95
WIDTH = 32  # hidden units
MAX_GRAD_NORM = 0.1  # far below any gradient, so that each is clipped, to full length
LEARNING_RATE = 0.01


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One line of the benchmark; everything that a training needs but its run number."""

    epsilon: float
    candidates: int
    slots: int
    steps: int
    net: str
    same_records: bool  # one choice of records and initial weights for all runs
    only_transcript: bool  # leave out the attack on the weights, and the control


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training and its attacks: which slots each named rightly, (slots,) bool."""

    transcript: Tensor
    weights: Tensor | None
    control: Tensor | None
    effective_slots: float
    guarantee: DPGuarantee


class Sine(nn.Module):
    """The sine as an activation: behind wide weights, no two records have similar features."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.sin(inputs)


def make_model(net: str, splits: Splits, rng: torch.Generator) -> nn.Sequential:
    """Two linear layers; `sine` starts from wide weights, `relu` is the everyday network.

    Random features of high frequency (Rahimi and Recht 2007) make the gradients of any two records
    all but orthogonal, so that no candidate is taken for another because the two look alike.
    """
    with torch.random.fork_rng():
        torch.manual_seed(rng.initial_seed())
        hidden = nn.Linear(math.prod(splits.shape), WIDTH)
        head = nn.Linear(WIDTH, splits.num_classes)
    if net == "sine":
        with torch.no_grad():
            hidden.weight *= 5.0
    return nn.Sequential(
        OrderedDict(
            normalise=Normalise(splits.mean, splits.std),
            flatten=nn.Flatten(),
            hidden=hidden,
            activation=Sine() if net == "sine" else nn.ReLU(),
            head=head,
        )
    )


# --------------------------------------------------------------------------- one training


@lru_cache(maxsize=1)
def population(folder: str | None) -> Splits:
    """MNIST, read once a process; raises DataError if it is not on this machine."""
    if find("mnist.npz", root=folder) is None:
        raise DataError(
            f"mnist.npz was not found in --data ({folder or 'not set'}) or in the folder DPTRAIN_DATA "
            f"({os.environ.get('DPTRAIN_DATA') or 'not set'}): put it into one of them"
        )
    return TorchvisionSet(name="mnist", mean=[0.13], std=[0.31], root=folder).load(
        torch.Generator().manual_seed(0)
    )


def draw(everyone: Splits, setup: Setup, streams: Streams) -> tuple[Splits, SlotAssignment]:
    """Known records from MNIST's training part, candidates from its test part, one planted in each slot."""
    rng = streams.seeded("records")
    known = torch.randperm(len(everyone.train), generator=rng)[:KNOWN]
    others = torch.randperm(len(everyone.test), generator=rng)
    wanted = max(setup.slots * setup.candidates + BACKGROUND, 2 * setup.slots * setup.candidates)
    # Not by hashes of the records, as in a run: where trials share theirs, the truth alone is drawn anew.
    table = others[: setup.slots * setup.candidates].view(setup.slots, setup.candidates)
    truth = Stream(streams.secret("coins")).words(setup.slots) % setup.candidates
    shown = everyone.test.take(table.flatten())
    slots = Slots(
        inputs=shown.inputs.view(*table.shape, *everyone.shape), labels=shown.labels.view(table.shape)
    )
    planted = everyone.test.take(table[torch.arange(setup.slots), truth])
    return (
        replace(
            everyone,
            train=everyone.train.take(known).and_more(planted),
            holdout=everyone.test.take(others[table.numel() : wanted]),
        ),
        SlotAssignment(slots=slots, truth=truth, positions=tuple(range(KNOWN, KNOWN + setup.slots))),
    )


def run_trial(setup: Setup, folder: str | None, number: int) -> Trial:
    """Train once, and attack what an adversary saw of it."""
    torch.set_num_threads(1)
    streams = Streams(seed=0 if setup.same_records else number)
    splits, planting = draw(population(folder), setup, streams)
    targets = Targets.of(
        splits,
        slots=planting.slots,
    )
    settings = Settings(
        rates=Rates(sample_rate=1.0, expected_batch_size=KNOWN, steps=setup.steps),
        optimizer=partial(torch.optim.SGD, lr=LEARNING_RATE),
        physical_batch_size=4096,
        schedule="constant",
        warmup_steps=0,
        average_decay=0.0,
        evaluations=0,
        checkpoint_seconds=math.inf,
        diagnostics=False,
    )
    transcript = TranscriptReconstruction()

    def fit(mechanism: Mechanism) -> tuple[Release, Guarantee]:
        observer = transcript.watch(targets)
        context = Context(
            streams=streams,
            tracker=NullRun(),
            device=torch.device("cpu"),
            planted=planting.positions,
            observers=(observer,),
        )
        model = make_model(setup.net, splits, streams.seeded("model"))
        release, guarantee = mechanism.fit(model, splits, Budget(epsilon=setup.epsilon, delta=DELTA), context)
        return replace(release, transcript=observer), guarantee

    release, guarantee = fit(DPSGD(settings=settings, max_grad_norm=MAX_GRAD_NORM))
    found = transcript.run(release, targets, streams.seeded("attack"))
    assert found.effective_slots is not None
    by_weights = by_control = None
    if not setup.only_transcript:
        by_weights = WeightsReconstruction().run(release, targets, streams.seeded("attack")).guesses
        twin, _ = fit(NonPrivate(settings=settings))
        by_control = transcript.run(twin, targets, streams.seeded("attack")).guesses
    assert isinstance(guarantee, DPGuarantee)
    return Trial(
        transcript=found.guesses == planting.truth,
        weights=None if by_weights is None else by_weights == planting.truth,
        control=None if by_control is None else by_control == planting.truth,
        effective_slots=found.effective_slots,
        guarantee=guarantee,
    )


def run_trials(setup: Setup, folder: str | None, numbers: range) -> list[Trial]:
    """Several trainings, one after the other; what a worker is given at a time."""
    return [run_trial(setup, folder, number) for number in numbers]


class Workers:
    """Spreads trainings over processes, or runs them right here if one is all there is."""

    def __init__(self, count: int, folder: str | None) -> None:
        self.count = count
        self.folder = folder
        self.pool = (
            ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) if count > 1 else None
        )

    def run(self, setup: Setup, runs: int) -> list[Trial]:
        """The trainings of this many run numbers, in their order."""
        size = max(1, math.ceil(runs / (4 * self.count)))
        parts = [range(start, min(start + size, runs)) for start in range(0, runs, size)]
        work = partial(run_trials, setup, self.folder)
        done: Iterable[list[Trial]] = map(work, parts) if self.pool is None else self.pool.map(work, parts)
        return list(chain.from_iterable(done))

    def close(self) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


# --------------------------------------------------------------------------- what the trials say


def orthogonal_success(mu: float, candidates: int) -> float:
    """How often the best test names the candidate when gradients are orthogonal and of one length.

    Candidate j scores <v, g_j> - |g_j|^2 / 2. In units of the noise, with all steps put together
    |g_j| = mu, the planted one scores mu^2 / 2 + mu Z and every other -mu^2 / 2 + mu Z_j, where
    the Z are independent: it wins if mu + Z exceeds N - 1 standard normals.

    >>> round(orthogonal_success(0.0, 10), 6)
    0.1
    """

    def wins(z: float) -> float:
        return float(norm.pdf(z) * norm.cdf(z + mu) ** (candidates - 1))

    return float(quad(wins, -12.0, 12.0, epsabs=1e-10, limit=200)[0])


def only_guarantee(trials: list[Trial]) -> DPGuarantee:
    """The guarantee that all of these trainings ran under."""
    first = trials[0].guarantee
    assert all(trial.guarantee.plan == first.plan for trial in trials), "the runs followed different plans"
    return first


def share(rights: Iterable[Tensor | None]) -> float:
    """Share of right answers among single slots, one a training."""
    return float(torch.cat([right for right in rights if right is not None]).double().mean())


def benchmark(workers: Workers, setup: Setup, runs: int) -> dict[str, float]:
    """One line of the table: the attacks' success over independent trainings, and what limits it."""
    trials = workers.run(setup, runs)
    guarantee = only_guarantee(trials)
    successes = int(torch.cat([trial.transcript for trial in trials]).sum())
    interval = clopper_pearson(successes, runs, CONFIDENCE)
    bound = guarantee.reconstruction_bound(1 / setup.candidates)
    return {
        "noise_multiplier": guarantee.plan.noise_multiplier,
        "bound": bound,
        # Full batches add up to one Gaussian mechanism, with this mu exactly.
        "orthogonal": orthogonal_success(
            math.sqrt(setup.steps) / guarantee.plan.noise_multiplier, setup.candidates
        ),
        "transcript": interval.value,
        "low": interval.low,
        "high": interval.high,
        "ratio": interval.value / bound,
        "weights": share(trial.weights for trial in trials),
        "control": share(trial.control for trial in trials),
    }


def compare_spread(workers: Workers, setup: Setup, runs: int) -> dict[str, float]:
    """How far the number of successes spreads over trainings on the same records, seen and foretold.

    `independent` is the variance that independent slots with these success rates would have;
    K times its ratio to the observed variance is the number of slots that they were really worth.
    `coverage` is the share of trainings whose own interval holds the mean success of them all.
    """
    trials = workers.run(setup, runs)
    right = torch.stack([trial.transcript for trial in trials]).double()  # (runs, slots)
    rates, counts = right.mean(0), right.sum(1)
    independent = float((rates * (1 - rates)).sum()) * runs / (runs - 1)
    observed = float(counts.var())
    tail = (1 - CONFIDENCE) / 2
    low, high = (observed * (runs - 1) / float(chi2.ppf(p, runs - 1)) for p in (1 - tail, tail))
    foretold = torch.tensor([trial.effective_slots for trial in trials])
    intervals = [
        proportion(float(share) * float(effective), float(effective), CONFIDENCE)
        for share, effective in zip(right.mean(1), foretold, strict=True)
    ]
    success = float(right.mean())
    return {
        "bound": only_guarantee(trials).reconstruction_bound(1 / setup.candidates),
        "transcript": success,
        "independent": independent,
        "variance": observed,
        "variance_low": low,
        "variance_high": high,
        "variance_foretold": independent * setup.slots / float(foretold.mean()),
        "effective": setup.slots * independent / observed if observed > 0 else math.inf,
        "effective_low": setup.slots * independent / high if high > 0 else math.inf,
        "effective_high": setup.slots * independent / low if low > 0 else math.inf,
        "effective_foretold": float(foretold.mean()),
        "coverage": sum(i.low <= success <= i.high for i in intervals) / runs,
    }


# --------------------------------------------------------------------------- the command


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 1 if an attack beat its bound, 2 if there is no data."""
    options = parse(arguments)
    started = time.perf_counter()
    workers = Workers(options.workers, options.data)
    try:
        population(options.data)
        lines = show(workers, options)
    except BrokenGuarantee as error:
        print(f"broken  {error}", file=sys.stderr)
        return 1
    except DptrainError as error:
        print(f"error  {error}", file=sys.stderr)
        return 2
    finally:
        workers.close()
    seconds = time.perf_counter() - started
    print(f"\n{seconds:.0f} seconds")
    if options.json:
        found = {
            "epsilon": lines,
            "runs": options.runs,
            "candidates": options.candidates,
            "slots": options.slots,
            "seconds": seconds,
        }
        print(json.dumps(found))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--epsilon", type=float, nargs="+", default=[1.0, 3.0, 8.0], help="targets, at delta 1e-5"
    )
    parser.add_argument("--runs", type=int, default=400, help="trainings for each epsilon (default 400)")
    parser.add_argument("--candidates", type=int, default=10, help="records to choose from (default 10)")
    parser.add_argument("--steps", type=int, default=20, help="full-batch steps of a training (default 20)")
    parser.add_argument(
        "--net", choices=("sine", "relu"), default="sine", help="the two-layer network's activation"
    )
    parser.add_argument(
        "--slots", type=int, default=1, help="plant so many in one training and compare the spread"
    )
    parser.add_argument("--data", help="folder that holds mnist.npz; else DPTRAIN_DATA")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args(arguments)
    for name, least in {"runs": 2, "candidates": 2, "steps": 1, "slots": 1, "workers": 1}.items():
        if getattr(options, name) < least:
            parser.error(f"--{name} {getattr(options, name)} must be at least {least}")
    return options


def show(workers: Workers, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Print a line for each epsilon as it is done; raises BrokenGuarantee if one is surely over its bound."""
    many = options.slots > 1
    setup = Setup(
        epsilon=math.nan,
        candidates=options.candidates,
        slots=options.slots,
        steps=options.steps,
        net=options.net,
        same_records=many,
        only_transcript=many,
    )
    print(
        f"MNIST, {KNOWN} known records, {options.slots} unknown, one of {options.candidates} candidates;\n"
        f"{options.net} network, {options.steps} full-batch steps; {options.runs} trainings a line\n"
    )
    print(SPREAD_HEAD if many else HEAD)
    lines = {}
    for epsilon in options.epsilon:
        measured = compare_spread if many else benchmark
        line = measured(workers, replace(setup, epsilon=epsilon), options.runs)
        lines[f"{epsilon:g}"] = line
        print((SPREAD_LINE if many else LINE).format(epsilon=epsilon, **line), flush=True)
        if not many and line["low"] > line["bound"]:
            raise BrokenGuarantee(
                f"epsilon={epsilon:g}: the attack succeeds in at least {line['low']:.3f} of trainings, "
                f"above the bound {line['bound']:.3f}"
            )
    return lines


HEAD = "epsilon   noise   bound   orthogonal   transcript [95 %]       of bound   weights   control"
LINE = (
    "{epsilon:7g} {noise_multiplier:7.3f} {bound:7.3f} {orthogonal:12.3f}   {transcript:6.3f} "
    "[{low:.3f}, {high:.3f}] {ratio:11.1%} {weights:9.3f} {control:9.3f}"
)
SPREAD_HEAD = (
    "                              variance of the number right      slots that they are worth\n"
    "epsilon   bound   success   observed [95 %]   foretold        observed [95 %]   foretold  coverage"
)
SPREAD_LINE = (
    "{epsilon:7g} {bound:7.3f} {transcript:9.3f}   {variance:.2f} [{variance_low:.2f}, {variance_high:.2f}] "
    "{variance_foretold:10.2f}   {effective:9.1f} [{effective_low:.1f}, {effective_high:.1f}] "
    "{effective_foretold:10.1f} {coverage:9.1%}"
)


if __name__ == "__main__":
    sys.exit(main())
