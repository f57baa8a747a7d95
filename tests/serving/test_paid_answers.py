"""A run with mechanism=private_prediction behind guards: its own ledger pays for every answer."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from support import order

from dptrain.cli import main as cli
from dptrain.cli.serve import prepared
from dptrain.config import parse
from dptrain.contracts import ConfigError
from dptrain.pipeline import guarded
from dptrain.report.document import read_json
from dptrain.serving.guard import Refused
from dptrain.serving.keys import ANYONE
from dptrain.serving.service import Service
from dptrain.training.paid_answers import LEDGER, PaidAnswers

pytestmark = pytest.mark.run

ANSWERS = 30
ASKED = (
    "mechanism=private_prediction", "mechanism.teachers=10", f"mechanism.answers={ANSWERS}", "model=logistic",
    "attack=[]", "privacy.epsilon=8", "performance.threads=1", "performance.estimate=false", "tracking=none",
    "control.enabled=false",
)  # fmt: skip
INPUTS = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("paid")
    with redirect_stdout(io.StringIO()):
        cli.main(order(*ASKED, f"output={here}"), None)
    (report,) = here.glob("*/report.json")
    return report.parent


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, none of whose answers is spent."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def made(run: Path, *words: str) -> Service:
    asked = (f"release.source={run}", f"serve.folder={run.parent / 'service'}", "serve.keys=false", *words)
    found = order("task=serve", "serving=[record,budget]", *asked)
    return prepared(parse(found.config), found)[0]


@pytest.fixture
def workers(run: Path) -> Iterator[tuple[Service, Service]]:
    one, other = (made(run, "serve.workers=2") for _ in range(2))
    yield one, other
    one.close()
    other.close()


def ask(service: Service, inputs: torch.Tensor) -> list[list[float]]:
    body = json.dumps({"inputs": inputs.tolist()}).encode()
    answer: list[list[float]] = service.answer(ANYONE, body, "application/json")[0]["predictions"]
    return answer


def test_workers_give_so_many_answers_together_and_no_more(run: Path, workers: tuple[Service, Service]):
    """Half of the inputs are asked of both."""
    given: list[dict[int, list[float]]] = [{}, {}]
    refused: list[Refused] = []

    def one(number: int) -> None:
        for place in range(15 * number, 15 * number + 45):
            try:
                (given[number][place],) = ask(workers[number], INPUTS[place : place + 1])
            except Refused as why:
                refused.append(why)
            assert len(given[0] | given[1]) <= ANSWERS - PaidAnswers(run).left  # each was paid for before

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, range(2)))
    together = given[0] | given[1]
    assert len(together) == ANSWERS
    assert all(given[0][place] == given[1][place] for place in given[0].keys() & given[1].keys())
    assert len(given[0]) + len(given[1]) + len(refused) == 90
    assert {(why.status, why.retry_after) for why in refused} == {(429, None)}
    assert refused[0].said.startswith("All 30 answers of this release are given; what was asked before")
    known = next(iter(together))
    assert ask(workers[0], INPUTS[known : known + 1]) == [together[known]]
    assert workers[0].model.left is not None
    assert workers[0].model.left() == 0


def test_answers_are_those_of_the_predictor_and_outlive_a_restart(run: Path):
    import dptrain

    service = made(run)
    said = ask(service, INPUTS[:3])
    service.close()
    predictor = dptrain.predictor(run)
    assert predictor.left == ANSWERS - 3
    assert torch.equal(predictor.confidences(INPUTS[:3]).float(), torch.tensor(said))
    again = made(run, "release.output=labels_only")
    assert torch.tensor(ask(again, INPUTS[:3])).sort(dim=1).values[:, -1].tolist() == [1.0] * 3
    assert predictor.left == ANSWERS - 3
    again.close()


def test_an_audit_asks_a_replica_as_often_as_people_may_and_spends_nothing_of_theirs(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(guarded, "REQUESTS", 20)
    words = (
        "task=audit", f"release.source={run}", "release.serve=true", "serving=[record]", "release.sessions=1",
        "attack=[class_inversion_queries]", "attack.class_inversion_queries.queries=2000",
        f"output={tmp_path}", "control.enabled=false", "tracking=none",
    )  # fmt: skip
    with redirect_stdout(io.StringIO()):
        cli.main(order(*words), None)
    (path,) = tmp_path.glob("*_audit/report.json")
    report = read_json(path)
    assert PaidAnswers(run).left == ANSWERS
    (asked,) = report["guarding"]["probing"]
    assert 0 < asked["answered"] <= ANSWERS
    assert report["utility"]["accuracy"] > 0.2  # of more test records than people may ask about


def test_what_cannot_be_paid_for_is_refused(run: Path):
    with pytest.raises(ConfigError, match="each answer of this release is paid for; leave `detection` out"):
        made(run, "serving=[detection]", "serve.calibration=held_out")
    assert PaidAnswers(run).left == ANSWERS
    service = made(run)
    (run / LEDGER).rename(run / "gone")
    with pytest.raises(Refused, match="ledger of answers cannot be reached") as caught:
        ask(service, INPUTS[:1])
    assert caught.value.status == 503
    service.close()
    (run / LEDGER).unlink()
    with pytest.raises(ConfigError, match=r"has no weights\.pt"):
        made(run)
