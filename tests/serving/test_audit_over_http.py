"""A run that is served by the command line's own way and attacked through its interface."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import requests
from support import QUICK, QUICK_ATTACKS, order

import dptrain
from dptrain.cli import main as cli
from dptrain.cli.serve import prepared, serving
from dptrain.config import parse
from dptrain.contracts import ConfigError
from dptrain.evidence.shares import mean_of_shares
from dptrain.pipeline import guarded
from dptrain.report.document import read_json

pytestmark = pytest.mark.e2e

ATTACKS = "attack=[membership_loss,class_inversion_labels,class_inversion_queries]"
SHORT = ("attack.class_inversion_labels.queries=60", "attack.class_inversion_queries.queries=200")
OURS = ("tracking=none", "control.enabled=false")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run's folder."""
    output = tmp_path_factory.mktemp("trained")
    settings = (*QUICK, *QUICK_ATTACKS, "attack=[membership_loss]", "evidence.probes=60", *OURS)
    quick = [each for each in settings if not each.startswith("attack.")]
    cli.main(order(f"output={output}", *quick), None)
    (report,) = output.glob("*/report.json")
    return report.parent


def asked(trained: Path, folder: Path, *overrides: str):
    found = order("task=serve", f"release={trained}", f"serve.folder={folder}", "serve.port=0", *overrides)
    return parse(found.config), found


def audit(output: Path, *overrides: str) -> dict:
    before = set(output.glob("*/report.json"))
    cli.main(order("task=audit", f"output={output}", *OURS, *overrides), None)
    (made,) = set(output.glob("*/report.json")) - before
    return read_json(made)


def values(report: dict, name: str) -> list:
    return [line["value"] for line in report["leakage"] if line["attack"] == name]


@pytest.fixture(scope="module")
def local(trained, tmp_path_factory) -> dict:
    """What attacks find in the weights."""
    return audit(tmp_path_factory.mktemp("local"), f"release={trained}", ATTACKS, *SHORT)


def test_an_attack_finds_over_http_what_it_finds_in_the_weights(trained, local, tmp_path, monkeypatch):
    config, found = asked(trained, tmp_path / "service")
    where = f"serve.folder={tmp_path / 'service'}"
    with dptrain.serve(trained, "serve.port=0", where, "tracking=none") as url:
        service, _ = prepared(config, found)
        keys = [service.keys.make(tenant="red", scopes=["predict"], days=1) for _ in range(2)]
        monkeypatch.setenv("DPTRAIN_KEY", ",".join(keys))
        session = requests.Session()
        session.trust_env = False
        stated = session.get(f"{url}/v1/statement", timeout=20).json()
        remote = audit(
            tmp_path,
            f"release.source={url}",
            "release.key_env=DPTRAIN_KEY",
            f"release.run={trained}",
            ATTACKS,
            *SHORT,
        )
        headers = {"Authorization": f"Bearer {keys[0]}"}
        spent = session.get(f"{url}/v1/key", headers=headers, timeout=20).json()["budgets"]["tenant"]["spent"]
        service.close()
    assert stated == json.loads((trained / "statement.json").read_text())
    for name in ("membership_loss", "class_inversion_labels", "class_inversion_queries"):
        assert values(remote, name) == values(local, name)
        assert values(local, name)
    (note,) = remote["data"]["notes"]
    assert f"it answered {spent:,} queries by 2 keys" in note
    assert all(key not in json.dumps(remote) for key in keys)


def test_a_spent_budget_ends_an_attack_and_not_the_audit(trained, tmp_path, monkeypatch):
    config, found = asked(trained, tmp_path / "service", "serving.budget.per_tenant=700")
    with serving(config, found) as url:
        service, _ = prepared(config, found)
        monkeypatch.setenv("DPTRAIN_KEY", service.keys.make(tenant="red", scopes=["predict"], days=1))
        service.close()
        report = audit(
            tmp_path, f"release.source={url}", "release.key_env=DPTRAIN_KEY", f"release.run={trained}", *OURS,
            "attack=[membership_loss,class_inversion_queries]", "attack.class_inversion_queries.queries=2000",
        )  # fmt: skip
    assert report["not_run"] == []
    assert values(report, "class_inversion_queries")  # of what it had by then
    assert report["guarding"]["guards"] is None  # which only whoever runs the service knows
    ended = report["guarding"]["probing"][1]
    assert ended["attack"] == "class_inversion_queries"
    assert ended["answered"] < ended["asked"] < 2000
    assert ended["coarse"] is None


GUARDED = (
    "release.serve=true", "serve.calibration=held_out", "release.sessions=2",
    "serving=[detection,record,budget]", "serving.detection.sessions=20", "serving.detection.length=30",
    "serving.detection.checks=[10,30]", "serving.detection.session_false_alarms=0.05",
    "serving.detection.actions=[slow,coarsen]",
)  # fmt: skip


@pytest.fixture(scope="module")
def served(trained, tmp_path_factory) -> Path:
    """A folder with two audits of services of their own: without guards, and with all."""
    output = tmp_path_factory.mktemp("served")
    attacks = ("attack=[class_inversion_queries]", SHORT[1])
    bare = ("release.serve=true", "serving=[]", "release.sessions=0")
    more = ("release.keys=4", "release.tenants=2", "release.pause_seconds=7", "release.at_once=40")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(guarded, "REQUESTS", 20)
        audit(output, f"release.source={trained}", *attacks, *bare)
        audit(output, f"release.source={trained}", *attacks, *GUARDED, *more)
    return output


def test_an_audit_serves_the_run_by_itself_and_tells_what_its_guards_did(served, local):
    bare, with_guards = (read_json(path) for path in sorted(served.glob("*/report.json")))
    (asked,) = bare["guarding"]["probing"]
    assert (asked["coarse"], asked["until_alarm"], asked["sessions"]) == (0, None, 0)
    assert values(bare, "class_inversion_queries") == values(local, "class_inversion_queries")
    found = with_guards["guarding"]
    assert found["guards"] == ["detection", "record", "budget"]
    (asked,) = found["probing"]
    assert (asked["keys"], asked["tenants"]) == (4, 2)
    assert 150 < asked["asked"] == asked["answered"] <= 200
    assert 0 < asked["flagged"] <= asked["sessions"]
    assert asked["until_alarm"] <= 30
    assert asked["coarse"] > 0
    requests_sent = -(-asked["asked"] // 40)  # at the least: the attack asks in portions of its own
    assert asked["seconds"] >= 7 * (requests_sent - 1)  # which nobody waited for
    assert found["normal"]["sessions"] == 2
    assert found["normal"]["queries"] == 400
    withheld = found["normal"]["withheld"]  # two sessions tell little, however many queries they have
    assert withheld == asdict(mean_of_shares(withheld["value"], 2, 0.95))
    assert found["latency"]["p50"] <= found["latency"]["p99"]
    page = (served / with_guards["folder"].rpartition("/")[2] / "report.html").read_text()
    assert "What the guards did" in page
    assert "No theorem bounds what guards let pass" in page


def test_services_are_compared_by_what_their_guards_buy_and_cost(served):
    from dptrain.comparison.compare import compare
    from dptrain.comparison.gather import Selection
    from dptrain.report.comparison import guards, page

    found = compare(Selection(folders=(served,)), command="compare")
    (_, bare), (_, with_guards) = guards.shown(found)
    assert (bare.guards, with_guards.guards) == ((), ("detection", "record", "budget"))
    assert found.cost.models == 1  # one training, attacked twice
    rows = guards.buys(found).rows
    assert [row[3] for row in rows] == [rows[0][2]] * 2  # beside the one without guards
    assert all(row[-1] == "no bound" for row in rows)
    assert guards.figure(found) is not None
    assert "What guards buy, and what they cost" in page.as_html(found)


def test_what_is_refused_before_anything_is_served(trained, tmp_path):
    def why(*overrides: str) -> str:
        with pytest.raises(ConfigError) as caught:
            prepared(*asked(trained, tmp_path / "service", *overrides))
        return str(caught.value)

    assert "serve.keys=false with serve.host=0.0.0.0" in why("serve.keys=false", "serve.host=0.0.0.0")
    assert "serve.calibration=null" in why("serving=[detection]")
    assert "declares no public records" in why("serving=[detection]", "serve.calibration=public")
    assert "serve.store=nodb://***@host" in why("serve.store=nodb://me:hush@host/x")
    weights = trained / "weights.pt"
    kept = weights.read_bytes()
    import torch

    state = torch.load(weights, weights_only=True)
    next(iter(state.values())).add_(1e-3)
    torch.save(state, weights)
    try:
        assert "are not the weights that statement.json speaks of" in why()
    finally:
        weights.write_bytes(kept)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("task=serve",), "task=serve needs a model"),
        (("task=verify", "release=http://127.0.0.1:1"), "add task=audit"),
        (
            ("task=audit", "release.source=runs/x", "release.key_env=A"),
            "release.key_env=A belongs to a service",
        ),
        (("task=audit", "release.source=x", "release.keys=10"), "add release.serve=true"),
        (("task=audit", "release.source=http://h:1", "release.keys=10"), "several keys in release.key_env"),
        (("task=serve", "release.source=x", "release.serve=true"), "add task=audit and release=RUN"),
        (("task=audit", "release.source=http://h:1", "release.serve=true"), "add task=audit and release=RUN"),
        (("task=audit", "release.source=x", "release.serve=true", "release.tenants=2"), "release.keys=2 or"),
        (("task=audit", "release.source=x", "release.serve=true", "serve.workers=2"), "serve.workers=2 is"),
    ],
)
def test_what_does_not_go_together(words, said):
    with pytest.raises(ConfigError, match=said):
        parse(order(*words).config)


def test_the_sweep_of_services_attacks_each_in_every_disguise():
    config = parse(order("+sweep=serving", "task=audit", "release.source=latest").config)
    assert config.release.serve
    assert config.serve.calibration == "held_out"
    disguises = {name: (each.get("in_range"), each.get("decoys")) for name, each in config.attack.items()}
    assert disguises["queries_decoys"] == (True, 0.5)
    assert {each["queries"] for name, each in config.attack.items() if "membership" not in name} == {5000}
