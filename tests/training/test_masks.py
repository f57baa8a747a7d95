"""Dropout masks and augmentation draw from a secret that no seed, no checkpoint and no user's call tells."""

from __future__ import annotations

import random
from functools import partial

import pytest
import torch
from torch import nn

from dptrain.contracts import ConfigError, Records, Streams
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.privacy import dpsgd
from dptrain.privacy.noise.keys import KeyChain
from dptrain.training import checkpoint, masks
from dptrain.training.augment import Augmentation
from dptrain.training.masks import WORDS, Masks, secret_states

pytestmark = pytest.mark.run

CPU = torch.device("cpu")
KEY = bytes(range(32))


class Dropped(nn.Module):
    """A dropout model; `before` is called in each forward."""

    def __init__(self, before=lambda: None) -> None:
        super().__init__()
        self.before, self.drop, self.head = before, nn.Dropout(0.5), nn.Linear(64, 3)

    def forward(self, inputs):
        self.before()
        return self.head(self.drop(inputs.flatten(1)))


@pytest.fixture
def seen(monkeypatch):
    """The default generator's state at each batch of a training, before the engine sees it."""
    states = []
    accumulate = dpsgd.DPSGDEngine.accumulate

    def spying(self, *arguments, **keywords):
        states.append(torch.get_rng_state())
        return accumulate(self, *arguments, **keywords)

    monkeypatch.setattr(dpsgd.DPSGDEngine, "accumulate", spying)
    return states


@pytest.fixture
def fit(splits, settings_of, context_of, budget):
    def run(model, *, seed=7, folder=None, deterministic=False, **changes):
        context = context_of(streams=Streams(seed, deterministic), folder=folder)
        # The audit of sensitivity goes through a step's batch aside, under the masks of that step.
        mechanism = DPSGD(settings=settings_of(**changes), audit_sensitivity=False)
        return mechanism.fit(model, splits, budget, context)

    return run


def words_of(state):
    return state[24 : 24 + 8 * WORDS].view(torch.int64)


def test_all_words_of_the_state_are_drawn() -> None:
    (state,), seed = secret_states(KEY, CPU)
    (again,), _ = secret_states(KEY, CPU)
    (other,), _ = secret_states(bytes(32), CPU)
    assert torch.equal(state, again)
    assert (words_of(state) != words_of(other)).float().mean() > 0.999
    assert int(words_of(state).min()) >= 0
    assert int(words_of(state).max()) < 2**32
    # What `manual_seed` makes of the same seed, of which it keeps 32 bits, is another state altogether.
    torch_own = torch.Generator().manual_seed(seed).get_state()
    assert (words_of(state) != words_of(torch_own)).float().mean() > 0.999
    with torch.random.fork_rng():
        torch.set_rng_state(state)
        assert torch.initial_seed() == seed
        assert 0.45 < float(torch.rand(4000).mean()) < 0.55


def test_the_state_of_every_step_is_new_and_follows_from_no_seed(fit, seen) -> None:
    """Not from the run's, not from the user's: nothing public leads to it, even if the noise is known."""
    for _ in range(2):
        torch.manual_seed(3)
        fit(Dropped())
    states = [tuple(words_of(state).tolist()) for state in seen]
    assert len(set(states)) == len(states) >= 14
    guessed = [torch.Generator().manual_seed(seed).get_state() for seed in (*range(100), 7 + (5 << 32))]
    guessed += [Streams(7).seeded(purpose).get_state() for purpose in ("masks", "noise", "sampling", "model")]
    assert not {tuple(words_of(state).tolist()) for state in guessed} & set(states)


def test_known_draws_move_the_sum_by_many_norms_and_that_is_why(make_plan_of) -> None:
    """With the masks' state known, one record less shifts the masks of all the others."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 3))
    inputs, labels = 3 * torch.randn(65, 8), torch.zeros(65, dtype=torch.long)

    def total(kept: slice, seed: int) -> torch.Tensor:
        loss = partial(nn.functional.cross_entropy, reduction="none")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        engine = dpsgd.DPSGDEngine(
            "bookkeeping", model, optimizer, make_plan_of(), loss=loss, generator=torch.Generator()
        )
        engine.accumulate(inputs[kept], labels[kept])  # chooses its way to the gradients first
        before = engine.total()
        torch.manual_seed(seed)
        engine.accumulate(inputs[kept], labels[kept])
        return engine.total() - before

    moved = [float((total(slice(0, 65), seed) - total(slice(1, 65), seed)).norm()) for seed in range(10)]
    assert max(moved) > 5


@pytest.mark.parametrize("where", ["constructor", "callback", "data"])
def test_a_seed_set_elsewhere_does_not_reach_the_masks(
    seen, where, splits, settings_of, context_of, budget, monkeypatch
) -> None:
    class Seeding(Dropped):
        def __init__(self) -> None:
            torch.manual_seed(0)
            super().__init__()

    def progress(**_) -> None:
        torch.manual_seed(0)

    if where == "data":  # as a data class that draws crops may do for each record
        read = Records.read
        monkeypatch.setattr(Records, "read", lambda self: torch.manual_seed(0) and read(self))
    model = Seeding() if where == "constructor" else Dropped()
    context = context_of(streams=Streams(7), progress=progress if where == "callback" else None)
    DPSGD(settings=settings_of(), audit_sensitivity=False).fit(model, splits, budget, context)
    public = torch.Generator().manual_seed(0).get_state()
    assert len(seen) >= 7
    assert not any(torch.equal(words_of(state), words_of(public)) for state in seen)
    assert len({tuple(words_of(state).tolist()) for state in seen}) == len(seen)


def test_the_users_generator_notices_nothing(splits, settings_of, context_of, budget) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    context = context_of(streams=Streams(7))
    masks = Masks(KEY, CPU)
    masks.next_step()
    with masks.drawing(0):
        torch.rand(100)
    assert torch.equal(torch.rand(3), expected)
    NonPrivate(settings=settings_of()).fit(Dropped(), splits, budget, context)


def restored() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)


@pytest.mark.parametrize(
    "before",
    [
        lambda: torch.manual_seed(0),
        lambda: torch.random.manual_seed(0),
        torch.seed,
        lambda: torch.default_generator.manual_seed(0),
        lambda: torch.set_rng_state(torch.Generator().manual_seed(0).get_state()),
        restored,
    ],
)
def test_a_model_that_seeds_in_forward_is_refused(before) -> None:
    masks = Masks(KEY, CPU)
    masks.next_step()
    before_it = torch.get_rng_state()
    with (
        pytest.raises(ConfigError, match=r"model: something seeds PyTorch's generator .* leave out"),
        masks.drawing(0),
    ):
        Dropped(before)(torch.zeros(2, 64))
    assert torch.equal(torch.get_rng_state(), before_it)
    torch.random.manual_seed(int(torch.initial_seed()))  # and the function is what it was


def test_a_state_that_is_put_back_as_checkpointed_layers_do_is_none_of_it() -> None:
    masks = Masks(KEY, CPU)
    masks.next_step()
    layer = nn.Dropout(0.5)
    with masks.drawing(0):
        found = torch.utils.checkpoint.checkpoint(
            layer, torch.ones(50, requires_grad=True), use_reentrant=False
        )
        found.sum().backward()


def test_each_physical_batch_has_draws_of_its_own_that_are_repeated_after_a_crash() -> None:
    def draws(masks: Masks) -> list[list[float]]:
        masks.next_step()
        found = []
        for block in (0, 1):
            with masks.drawing(block):
                found.append(torch.rand(4).tolist())
            torch.manual_seed(random.randrange(2**31))
        return found

    masks, other = Masks(KEY, CPU), Masks(bytes(32), CPU)
    first = draws(masks)
    state = masks.state_dict()
    second = draws(masks)
    other.load_state_dict(state)
    assert draws(other) == second
    assert len({tuple(found) for found in first + second}) == 4
    with pytest.raises(Exception, match="drawn by another version"):
        other.load_state_dict([torch.get_rng_state()])


def test_a_deterministic_run_derives_them_from_its_seed(fit, flat) -> None:
    def weights(seed):
        with torch.random.fork_rng():
            torch.manual_seed(2)
            model = Dropped()
        torch.manual_seed(random.randrange(2**31))
        return flat(fit(model, seed=seed, deterministic=True)[0].weights)

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("augmentation", [None, Augmentation(copies=2, shift=2, flip=True)])
def test_a_checkpoint_tells_no_mask_that_was_drawn(fit, seen, folder, augmentation, monkeypatch) -> None:
    keys = []
    draw = KeyChain.next
    monkeypatch.setattr(KeyChain, "next", lambda self: keys.append(draw(self)) or keys[-1])
    fit(Dropped(), folder=folder, augmentation=augmentation)
    kept = checkpoint.load(folder)["masks"]
    assert set(kept) == {"key", "step", "drawn_by", "masks"}
    later = KeyChain(bytes.fromhex(kept["key"]))
    foretold = {later.next() for _ in range(50)}
    assert len(keys) > 20
    assert not foretold & set(keys[:-50])
    states = [torch.Generator().manual_seed(0).get_state()] + [
        secret_states(key, CPU)[0][0] for key in foretold
    ]
    assert not {tuple(words_of(s).tolist()) for s in states} & {tuple(words_of(s).tolist()) for s in seen}


def test_the_test_sees_masks_from_the_users_generator(fit, seen, monkeypatch) -> None:
    """Broken on purpose: without the secret state, what a user seeds is what is drawn from."""
    monkeypatch.setattr(masks.Masks, "drawing", lambda *_: torch.enable_grad())
    model = Dropped()
    torch.manual_seed(0)
    public = words_of(torch.get_rng_state())
    fit(model)
    assert torch.equal(words_of(seen[0]), public)
