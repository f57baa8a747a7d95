"""Records of several tensors by name, and of token ids, trained under DP-SGD by the engine in use."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dptrain.assembly.records import load_splits
from dptrain.contracts import Budget, ConfigError, DataError, Plan, Records, Splits, Streams
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.privacy.clipping import MARGIN
from dptrain.privacy.dpsgd import DPSGDEngine
from dptrain.tasks import NextToken, task_of

pytestmark = pytest.mark.run

WORDS, LENGTH, VOCABULARY = 12, 6, 9
BUDGET = Budget(epsilon=None, delta=1e-3, noise_multiplier=0.5)


class ImageAndWords(nn.Module):
    """Reads an image, a sequence of words with a mask, and a number."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.look = nn.Linear(64, 8)
        self.read = nn.Embedding(WORDS, 8)
        self.say = nn.Linear(17, outputs)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        seen = self.look(inputs["image"].flatten(1)).tanh()
        mask = inputs["mask"].unsqueeze(-1)
        words = (self.read(inputs["words"]) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return self.say(torch.cat([seen, words, inputs["age"].unsqueeze(-1)], 1))


class Reader(nn.Module):
    """Says the next word at each place from the words so far."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 16)
        self.remember = nn.GRU(16, 16, batch_first=True)
        self.say = nn.Linear(16, VOCABULARY)

    def forward(self, words: Tensor) -> Tensor:
        return self.say(self.remember(self.embed(words))[0])


def seeded(make: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return make()


def named(count: int, rng: torch.Generator) -> Records:
    labels = torch.randint(3, (count,), generator=rng)
    inputs = {
        "image": torch.rand(count, 1, 8, 8, generator=rng),
        "words": torch.randint(WORDS, (count, LENGTH), generator=rng),
        "mask": torch.randint(2, (count, LENGTH), generator=rng),
        "age": labels / 3 + 0.1 * torch.rand(count, generator=rng),
    }
    return Records(inputs, labels)


@pytest.fixture
def several(rng: torch.Generator) -> Splits:
    return Splits(
        name="admissions",
        source="drawn for a test",
        train=named(60, rng),
        holdout=named(40, rng),
        test=named(30, rng),
        classes=("a", "b", "c"),
        bounds=(0.0, 1.0),
        bounds_by_name={"words": (0, WORDS - 1)},
        mean=(),
        std=(),
    )


@pytest.fixture
def sentences(rng: torch.Generator) -> Splits:
    def counting(count: int) -> Records:
        starts = torch.randint(VOCABULARY, (count, 1), generator=rng)
        words = (starts + torch.arange(LENGTH + 1)) % VOCABULARY
        return Records(words[:, :-1], words[:, 1:])

    return Splits(
        name="sentences",
        source="counted for a test",
        train=counting(80),
        holdout=counting(30),
        test=counting(30),
        classes=(),
        bounds=(0, VOCABULARY - 1),
        mean=(),
        std=(),
        task=NextToken(vocabulary=VOCABULARY, length=LENGTH),
    )


class Own:
    """A data source of a user's own."""

    def __init__(self, splits: Splits) -> None:
        self.splits = splits

    def load(self, rng: torch.Generator) -> Splits:  # noqa: ARG002
        return self.splits


def clipped_sum(model: nn.Module, records: Records, loss: Any, norm: float) -> Tensor:
    """One backward pass a record, clipped and added up."""
    total = torch.zeros(sum(each.numel() for each in model.parameters()), dtype=torch.float64)
    for index in range(len(records)):
        one = records.take(torch.tensor([index]))
        model.zero_grad()
        loss(model(one.inputs), one.labels).sum().backward()
        gradient = torch.cat([each.grad.flatten() for each in model.parameters()]).double()
        total += gradient * min(1.0, norm / float(gradient.norm()))
    return total


@pytest.mark.parametrize(
    ("what", "kind"), [("several", "bookkeeping"), ("several", "hooks"), ("sentences", "bookkeeping")]
)
def test_the_clipped_sum_is_that_of_a_slow_loop(
    what: str, kind: str, request: pytest.FixtureRequest, make_plan_of: Any
) -> None:
    splits: Splits = request.getfixturevalue(what)
    task, model = task_of(splits), seeded(ImageAndWords if what == "several" else Reader)
    plan: Plan = make_plan_of(max_grad_norm=0.3)
    some = splits.train.take(torch.arange(20))
    expected = clipped_sum(seeded(type(model)), some, task.loss, 0.3 * (1 - MARGIN))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = DPSGDEngine(kind, model, optimizer, plan, loss=task.loss, generator=torch.Generator())
    engine.prepare(splits.train.blank(1), labels=task.made_up(16, torch.Generator().manual_seed(0)))
    for part in torch.arange(20).split(8):
        engine.accumulate(some.take(part).inputs, some.labels[part])
    torch.testing.assert_close(engine.total().double(), expected, rtol=1e-4, atol=1e-5)


def test_inputs_by_name_train_privately(several: Splits, settings_of: Any, context_of: Any) -> None:
    mechanism = DPSGD(settings=settings_of(rates={"steps": 2}))
    release, guarantee = mechanism.fit(seeded(ImageAndWords), several, BUDGET, context_of())
    answers = release.predict(several.test.inputs, batch_size=7)
    torch.testing.assert_close(answers.sum(1), torch.ones(30))
    stated = guarantee.statement().sensitivity
    assert stated.audit == "held"
    assert 0 < stated.ratio <= 1


def test_a_next_token_model_trains_on_token_ids(sentences: Splits, settings_of: Any, context_of: Any) -> None:
    adam = partial(torch.optim.Adam, lr=0.02)
    mechanism = DPSGD(settings=settings_of(rates={"steps": 60, "expected_batch_size": 30}, optimizer=adam))
    checked = load_splits(Own(sentences), Streams(seed=1))
    model = mechanism.prepare(seeded(Reader), checked)
    release, _ = mechanism.fit(model, checked, replace(BUDGET, noise_multiplier=0.3), context_of())
    assert release.published[-1][1] > 0.8  # 1/9 by chance
    assert release.predict(sentences.test.inputs).shape == (30, LENGTH, VOCABULARY)


def test_a_model_that_mixes_records_of_several_inputs_is_refused(several: Splits, settings_of: Any) -> None:
    class Mixing(ImageAndWords):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return super().forward({**inputs, "age": inputs["age"] - inputs["age"].mean()})

    with pytest.raises(ConfigError, match="of one record depends on the other records"):
        DPSGD(settings=settings_of()).prepare(seeded(Mixing), several)


def test_records_by_name_are_taken_joined_and_told_apart(rng: torch.Generator) -> None:
    records = named(10, rng)
    both = records.take(torch.tensor([3, 1])).and_more(records.take(torch.tensor([7])))
    for name, one in both.inputs.items():
        assert torch.equal(one, records.inputs[name][[3, 1, 7]])
    assert torch.equal(both.digests(), records.digests()[[3, 1, 7]])
    assert len(records.digests().unique(dim=0)) == 10
    older = Records({**records.inputs, "age": records.inputs["age"] + 1}, records.labels)
    assert not (older.digests() == records.digests()).all(1).any()
    assert [len(batch) for batch in records.batches(4)] == [4, 4, 2]
    assert records.names == ("image", "words", "mask", "age")
    blank = records.blank(2)
    assert (blank["words"].dtype, blank["image"].shape) == (torch.int64, (2, 1, 8, 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": torch.full((60, LENGTH), WORDS)}, "value of record 0 of train lies outside"),
        ({"age": torch.full((60,), float("nan"))}, "value of record 0 of train is not finite"),
        ({"age": torch.rand(60, 2)}, "train of .*'age': .2,.*; make them alike"),
    ],
)
def test_inputs_by_name_are_looked_over(several: Splits, change: Any, message: str) -> None:
    spoilt = Records({**several.train.inputs, **change}, several.train.labels)
    with pytest.raises(DataError, match=message):
        load_splits(Own(replace(several, train=spoilt)), Streams(seed=1))
