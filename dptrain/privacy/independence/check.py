"""The tests themselves, and what is said of a model that fails one."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from opacus.layers import DPMultiheadAttention
from torch import Tensor, nn

from dptrain.contracts import Forms
from dptrain.privacy.independence.bench import (
    AT_INPUT,
    OTHER_START,
    Answers,
    Bench,
    CannotRun,
    RecordLoss,
    features_of,
    open_bench,
)
from dptrain.privacy.independence.compare import differing, differs, first_module, largest_of, tolerances
from dptrain.privacy.independence.rows import MadeUp
from dptrain.privacy.independence.state import State, changed, copied, state_of, weights_of

TESTED = "tested, not proved"
AT_A_TIME = 2**24  # numbers of the gradients that are kept to be compared

REMEMBERED = (
    "so it remembers records beside the noise; keep nothing on modules from one call to the next, and no "
    "running statistics"
)


ROW_BY_ROW = (
    "compute what it needs of each record by itself: statistics by LayerNorm or GroupNorm, softmax over the "
    "last axis, nothing across the first"
)


def find_dependence(
    model: nn.Module,
    *,
    forms: Forms,
    labels: MadeUp,
    loss: RecordLoss,
    subject: str = "model",
    on: nn.Module | None = None,
) -> str | None:
    """What makes one record's gradient depend on other records, with its cure; None if nothing was found.

    The model is not touched. `forms` is what its inputs are like, `labels` makes some up. Where the model
    works `on` features, `forms` are of what they are made of, and their maker is known to be in order.
    """
    try:
        fresh = copy.deepcopy(model).cpu().train()
    except Exception as error:
        return (
            f"{subject}: it cannot be copied, and so not tested ({type(error).__name__}: {error}); keep no "
            "locks, files or tensors of a calculation on its modules"
        )
    found = _renormalises(fresh)
    if found is None:
        try:
            seen = forms if on is None else features_of(forms, labels, made_by=on)
            large = sum(one.numel() for one in fresh.parameters()) > AT_A_TIME
            bench = open_bench(fresh, seen, labels, loss)
            del fresh
            if large:
                gc.collect()  # the copies that rows were tried with
            found = _find(bench)
            del bench
            if large:
                gc.collect()
        except CannotRun as failure:
            found = (
                f"it fails on made-up inputs within the data's bounds, in {failure}, and training meets "
                "batches of every size; make it take any such input, and leave the first axis to the records"
            )
    return None if found is None else f"{subject}: {found}"


def _find(bench: Bench) -> str | None:
    """Tests of copies that share the parameters of this model, which change between tests and in none."""
    found = _remembers(bench)
    _scale(bench.model, 8.0)
    found = found or _remembers(bench)
    _scale(bench.model, 1 / 8.0)
    found = found or _mixes(bench.copied())
    _move(bench.model)
    return found or _mixes(replace(bench.copied(), start=OTHER_START))


@torch.no_grad()
def _scale(model: nn.Module, factor: float) -> None:
    for parameter in _trained(model):
        parameter.mul_(factor)


@torch.no_grad()
def _move(model: nn.Module) -> None:
    """As training will: a branch whose last weights begin at zero hides what lies before them."""
    rng = torch.Generator().manual_seed(12)
    for parameter in _trained(model):
        size = float(parameter.std()) if parameter.numel() > 1 else 0.0
        noise = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
        parameter.add_((0.2 * (size or 0.2) * noise).to(parameter))


def _trained(model: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for parameter in model.parameters() if parameter.requires_grad)


def _groups(model: nn.Module) -> list[list[str]]:
    """Names of the trained parameters, those together whose gradients are kept at a time."""
    groups, numbers = [list[str]()], 0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if groups[-1] and numbers + parameter.numel() > AT_A_TIME:
            groups, numbers = [*groups, []], 0
        groups[-1].append(name)
        numbers += parameter.numel()
    return groups


def _largest(bench: Bench, rows: Sequence[int], groups: Sequence[Sequence[str]]) -> float | None:
    """The largest value of all gradients, where they are not kept together; None where they are."""
    if len(groups) < 2:
        return None
    asked = bench.copied()
    return max(largest_of(asked.ask(rows, gradients=group).gradients) for group in groups)


def _renormalises(model: nn.Module) -> str | None:
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag) and layer.max_norm is not None:
            return (
                f"`{name}` ({type(layer).__name__}) with max_norm={layer.max_norm:g} rescales the weights "
                "that a record uses, beside the noise, so that they tell who used them; build it without "
                "max_norm"
            )
    return None


def _remembers(bench: Bench) -> str | None:
    """Whether two copies of a model hold and answer the same, whatever they are called with and when."""
    groups = _groups(bench.model)
    untouched = copied(weights_of(bench.model))  # before any call, of which the first may be the one
    largest = _largest(bench, range(5), groups)
    found = (_remembers_in(bench, group, untouched, largest) for group in groups)
    return next((what for what in found if what is not None), None)


def _remembers_in(bench: Bench, group: Sequence[str], untouched: State, largest: float | None) -> str | None:
    """The same of the gradients of some parameters; the weights must stay as they were `untouched`."""
    one, other = bench.copied(), bench.copied()
    first, second = (0, 1, 2, 3, 4), (5, 6, *one.rows.extreme[:1])
    answers: dict[tuple[int, ...], Answers] = {}
    after: dict[tuple[int, ...], State] = {}  # what was held after the first call with these rows
    for bench, rows in ((one, first), (other, second)):
        answers[rows] = bench.ask(rows, gradients=group)
        after[rows] = copied(state_of(bench.model), like=untouched)
        if (path := changed(untouched, weights_of(bench.model), tensors=True)) is not None:
            return _kept(bench.model, path)
    warm = after[first]  # a call may make what it needs once, but of no rows in particular
    if (path := changed(warm, after[second], tensors=True)) is not None:
        return _kept(one.model, path)
    for bench, rows in ((one, first), (one, second), (one, first), (other, first), (other, second)):
        again = bench.ask(rows, gradients=group)
        state = state_of(bench.model)
        path = changed(warm, state, tensors=True) or changed(after[rows], state, tensors=False)
        if path is not None:
            return _kept(bench.model, path)
        allowed = tolerances(again, double=one.double)
        before = answers[rows]
        if differs(before, again, allowed) or differing(
            before.gradients, again.gradients, allowed[1], largest=largest
        ):
            return f"asked the same again, with other rows in between, it answers differently, {REMEMBERED}"
        del again  # the gradients of a large model, before there are others
    return None


def _kept(model: nn.Module, path: str) -> str:
    """What is said of a value that a call has changed."""
    modules = dict(model.named_modules())
    owner = path
    while owner and owner not in modules:
        owner = owner.rpartition(".")[0]
    kind = type(modules[owner]).__name__
    named = f"`{owner}` ({kind})" if owner else kind
    return f"a call changes `{path}` of {named}, {REMEMBERED}"


def _mixes(bench: Bench) -> str | None:
    """Whether what comes of a row depends on what the other rows are, or whether there are any."""
    groups = _groups(bench.model)
    largest = _largest(bench, [0, 1, 2], groups)
    names = list[str]()
    for group in groups:
        alone, added = [], dict[str, Tensor]()
        for row in (0, 1, 2):
            asked = bench.ask([row], gradients=group)
            added = {name: one + added[name] if added else one for name, one in asked.gradients.items()}
            alone.append(replace(asked, gradients={}))
        three = bench.ask([0, 1, 2], gradients=group)
        allowed = tolerances(three, double=bench.double)
        names += differing(added, three.gradients, allowed[1], largest=largest)
        three = replace(three, gradients={})
    base = bench.ask([0, 1, 2, 3, 4])
    extreme, poison = bench.rows.extreme, bench.rows.poison
    batches = [
        [2, 0, 1],
        [1, 5, 6, 7, 0],
        [0, 0, 1, 1, 0],
        [0, *extreme, 1],
        [0, *poison, 1],
        [1, *bench.rows.more[2:], 0],
    ]
    for answers in (*alone, three, *(bench.ask(batch) for batch in batches)):
        if (what := differs(base, answers, allowed)) is not None:
            if what.startswith(AT_INPUT) and names:
                what = f"gradient of `{names[-1]}`"  # nearer to where it begins
            return _mixed(bench, what, base.rows, answers.rows, allowed[0])
    return _mixed(bench, f"gradient of `{names[-1]}`", base.rows, [0, 1, 2], allowed[0]) if names else None


def _mixed(bench: Bench, what: str, one: Sequence[int], other: Sequence[int], tolerance: float) -> str:
    """Where it begins, that no influence can be bounded, and what to do."""
    # In some batches a forward pass shows nothing, as of the first row of a sequence of records.
    places = (first_module(bench, one, batch, tolerance) for batch in (other, [2, 0, 1], [4, 3, 2, 1, 0]))
    name = next((place for place in places if place is not None), None)
    where, cure = f"the {what}", ROW_BY_ROW
    if name is not None:
        module = bench.model.get_submodule(name)
        kind = type(module).__name__
        where = f"what `{name}` ({kind}) makes" if name else f"what {kind} makes"
        if isinstance(module, DPMultiheadAttention):  # whose batch_first=True is no attention
            cure = "use nn.MultiheadAttention with batch_first=True, which trains as it is"
        elif _time_first(module):
            cure = "build it with batch_first=True"
    return (
        f"{where} of one record depends on the other records of its batch, so no record's influence can be "
        f"bounded; {cure}"
    )


def _time_first(module: nn.Module) -> bool:
    return getattr(module, "batch_first", True) is False
