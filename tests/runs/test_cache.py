"""What is kept is found again, whole, once, and never in place of something else."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from support import QUICK, QUICK_ATTACKS, order

from dptrain.cli import main as cli
from dptrain.config import Performance
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.report.document import read_json
from dptrain.runs.cache import Cache, content_key, without_privacy

pytestmark = pytest.mark.run


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_what_was_made_is_found_again(cache: Cache) -> None:
    made = {"weights": {"a": torch.ones(2)}, "seen": (1, "poisson", None), "accuracy": 0.5}
    assert "twin_1" not in cache
    for make in (lambda: made, lambda: pytest.fail("made twice")):
        found = cache.get("twin_1", make)
        assert torch.equal(found["weights"]["a"], torch.ones(2))
        assert found["seen"] == (1, "poisson", None)
    (kept,) = cache.folder.glob("twin_*.pt")
    assert kept.stat().st_mode & 0o777 == (cache.folder / ".secret").stat().st_mode & 0o777 == 0o600


def test_a_name_tells_nothing_to_whoever_lacks_the_folder_s_secret(tmp_path: Path) -> None:
    for name in "ab":
        Cache(tmp_path / name).get("twin_1", dict)
    first, second = ({path.name for path in (tmp_path / name).glob("twin_*.pt")} for name in "ab")
    assert first.isdisjoint(second)
    assert "twin_1.pt" not in first


def test_a_maker_that_fails_leaves_nothing(cache: Cache) -> None:
    def fail() -> dict:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cache.get("twin_1", fail)
    assert "twin_1" not in cache
    assert not list(cache.folder.glob("*.pt"))


def test_seconds_count_what_was_made_and_not_what_was_found(cache: Cache) -> None:
    def slowly() -> dict:
        time.sleep(0.05)
        return {}

    cache.get("shadow_1", slowly)
    assert cache.seconds["shadow"] >= 0.05
    again = Cache(cache.folder)
    again.get("shadow_1", slowly)
    assert again.seconds == {"twin": 0.0, "evaluator": 0.0, "shadow": 0.0}


def _make_slowly(folder: Path) -> None:
    def make() -> dict:
        with (folder / "made").open("a") as file:
            file.write("x")
        time.sleep(0.3)
        return {}

    Cache(folder / "cache").get("twin_1", make)


def test_of_two_processes_one_makes_and_the_other_waits(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=_make_slowly, args=(tmp_path,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
        assert process.exitcode == 0
    assert (tmp_path / "made").read_text() == "x"


def test_a_key_changes_with_anything_that_it_is_made_of() -> None:
    recipe = {"model": {"_target_": "torch.nn.Linear"}, "privacy": {"epsilon": 3, "unit": "record"}}
    keys = {
        content_key("twin", (1,), [torch.ones(2)], recipe),
        content_key("shadow", (1,), [torch.ones(2)], recipe),
        content_key("twin", (2,), [torch.ones(2)], recipe),
        content_key("twin", (1,), [torch.zeros(2)], recipe),
        content_key("twin", (1,), [torch.ones(2, 1)], recipe),
        content_key("twin", (1,), [torch.ones(2)], {**recipe, "model": {"_target_": "torch.nn.Tanh"}}),
    }
    assert len(keys) == 6


def test_what_privacy_alone_reads_does_not_count_without_it() -> None:
    recipe = {
        "mechanism": {"clipping": "flat"},
        "privacy": {"epsilon": 3, "unit": "record"},
        "model": {"a": 1},
    }
    assert without_privacy(recipe) == {"privacy": {"unit": "record"}, "model": {"a": 1}}


def test_a_second_run_of_another_epsilon_takes_twin_evaluator_and_shadows_from_the_first(
    tmp_path: Path,
) -> None:
    seconds = []
    for epsilon in (2, 5):
        before = set(tmp_path.glob("*/report.json"))
        asked = order(
            "tracking=none", f"output={tmp_path}", f"privacy.epsilon={epsilon}",
            f"performance.prefetch={epsilon}",  # which changes nothing but when records are read
            *QUICK, *QUICK_ATTACKS,
        )  # fmt: skip
        cli.main(asked, None)
        (made,) = set(tmp_path.glob("*/report.json")) - before
        report = read_json(made)
        assert all(line["control"] is not None for line in report["leakage"])
        seconds.append(report["seconds"])
    assert all(seconds[0][kind] > 0 for kind in ("twin", "evaluator", "shadow"))
    assert all(seconds[1][kind] == 0 for kind in ("twin", "evaluator", "shadow"))


@pytest.fixture
def threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_restored")
def test_no_performance_key_trains_twin_or_shadow_models_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, fit = [], NonPrivate.fit

    def counted(self: NonPrivate, *given: Any) -> Any:
        trained.append(self)
        return fit(self, *given)

    monkeypatch.setattr(NonPrivate, "fit", counted)
    changes = {
        "physical_batch_size": 100, "prefetch": 0, "feature_cache_gib": 0, "feature_files_gib": 0,
        "checkpoint_seconds": 0, "threads": 2, "estimate": "true", "rank_seconds": 100,
        "private_network": "true", "processes": 2, "sharding": "fsdp2",
    }  # fmt: skip
    assert set(changes) == {each.name for each in fields(Performance)}, "each of them is changed here"
    together = [f"performance.{key}={value}" for key, value in changes.items()]
    alone = [word for word in together if "processes" not in word and "sharding" not in word]
    for more in (["performance.threads=1"], alone, together):  # one process holds all of a model
        asked = order(
            "tracking=none", f"output={tmp_path}", *more, "attack=[membership_loss,membership_rmia]",
            "attack.membership_rmia.shadows=2", *QUICK,
        )  # fmt: skip
        cli.main(asked, None)
        assert len(trained) == 3, f"a twin and two shadow models, by the first run and not with {more}"
    assert len(list(tmp_path.glob("*/report.json"))) == 3
