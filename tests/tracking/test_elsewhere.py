"""From a run on an MLflow server to its model elsewhere: registered, loaded, served, asked by its names."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from mlflow_pages import QUIET, free_port, serve, until_it_answers
from PIL import Image
from support import QUICK

import dptrain
from dptrain.storage import write_text

LOANS = """
_target_: dptrain.data.tabular.Tabular
path: {path}
columns:
  age: {{kind: number, bounds: [18, 90]}}
  income: {{kind: number, bounds: [0, 9000], missing: true}}
  joined: {{kind: date, bounds: ['2000-01-01', '2029-12-31'], format: '%d.%m.%Y'}}
  rooms: {{kind: category, categories: [1, 2, 3]}}
  region: {{kind: category, categories: [north, south], missing: true}}
target: late
classes: ['no', 'yes']
group: customer
group_word: customer
"""
ASKED = [
    {"age": 41, "income": None, "joined": "03.02.2021", "rooms": 2, "region": "south"},
    {"age": 66.5, "income": 1200, "joined": "17.11.2009", "rooms": "3", "region": None},
]
SMALL = (
    *QUICK, "training.expected_batch_size=64", "attack=[]", "control.enabled=false", "performance.threads=1",
)  # fmt: skip
# Where this package is broken or has never been: a model must load all the same.
ELSEWHERE = """
import json, sys
import mlflow
asked, images = json.load(sys.stdin)
loans = mlflow.pyfunc.load_model("models:/loans@passed")
digits = mlflow.pyfunc.load_model("models:/digits@passed")
from mlflow.pyfunc.scoring_server import _parse_json_data
posted = json.dumps({"dataframe_records": images})
parsed = _parse_json_data(posted, digits.metadata, digits.metadata.get_input_schema())
print(json.dumps({
    "loans": loans.predict(asked).to_dict("records"),
    "statement": loans.metadata.metadata["statement"]["proved"]["epsilon"],
    "digits": digits.predict(parsed.data).to_dict("records"),
    "labels_only": digits.metadata.metadata["output"],
    "imported": sorted(name for name in sys.modules if name.partition(".")[0] == "dptrain"),
}))
"""


def write_loans(folder: Path) -> None:
    """A CSV with dates, gaps and customers, and its schema as a file of `--config-dir`."""
    rng = np.random.default_rng(1)
    lines = ["customer,age,income,joined,rooms,region,late"]
    for row in range(240):
        income = "" if row % 7 == 0 else str(rng.integers(0, 9000))
        joined = f"{rng.integers(1, 29):02}.{rng.integers(1, 13):02}.{rng.integers(2000, 2030)}"
        region = ("north", "south", "")[rng.integers(3)]
        late = ("no", "yes")[rng.integers(2)]
        lines.append(
            f"c{row // 2},{rng.integers(18, 91)},{income},{joined},{rng.integers(1, 4)},{region},{late}"
        )
    write_text("\n".join(lines), folder / "loans.csv")
    (folder / "conf" / "data").mkdir(parents=True)
    write_text(LOANS.format(path=folder / "loans.csv"), folder / "conf" / "data" / "loans.yaml")


@contextmanager
def serve_model(uri: str, folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of `mlflow models serve`, until the end of the block."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local"]
    with (folder / "service.log").open("w") as log:
        service = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            until_it_answers(f"http://127.0.0.1:{port}/ping", folder / "service.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(service.pid, signal.SIGTERM)
            service.wait(30)


def post(address: str, records: list[dict[str, Any]]) -> Any:
    body = json.dumps({"dataframe_records": records}).encode()
    request = Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_run_on_a_server_is_registered_loaded_and_served_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_loans(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_text("raise ImportError('there is no dptrain here')", elsewhere / "dptrain.py")
    with serve(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "server.log") as server:
        dptrain.run(
            "quickstart", "data=loans", "model=mlp", "privacy.unit=group", f"tracking.uri={server}",
            "tracking.register=loans", *SMALL, config_dir=tmp_path / "conf",
        )  # fmt: skip
        dptrain.run(
            "quickstart", "release.output=labels_only", f"tracking.uri={server}", "tracking.register=digits",
            *SMALL,
        )  # fmt: skip
        environment = {
            **os.environ,
            **QUIET,
            "PYTHONPATH": str(elsewhere),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # MLflow calls uvicorn
            "MLFLOW_TRACKING_URI": server,
        }
        png = io.BytesIO()
        Image.new("L", (8, 8), 200).save(png, "PNG")
        images = [
            {"image": base64.b64encode(png.getvalue()).decode()},
            {"image": np.full((8, 8, 1), 200).tolist()},
        ]
        found = subprocess.run(
            [sys.executable, "-c", ELSEWHERE],
            input=json.dumps([ASKED, images]), capture_output=True, text=True, cwd=elsewhere,
            env=environment, check=False,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        said = json.loads(found.stdout.splitlines()[-1])
        assert said["imported"] == []
        assert said["statement"] == pytest.approx(3.0, abs=0.01)
        assert [set(row) for row in said["loans"]] == [{"no", "yes"}] * 2
        assert all(sum(row.values()) == pytest.approx(1) for row in said["loans"])
        assert said["digits"][0] == said["digits"][1], "a file and its pixels are one image"
        assert sorted(said["digits"][0].values()) == [0] * 9 + [1], "labels are all that is released"
        with serve_model("models:/loans@passed", elsewhere, environment) as service:
            assert post(service, ASKED)["predictions"] == [
                pytest.approx(row, abs=1e-6) for row in said["loans"]
            ]
            with pytest.raises(HTTPError) as refused:
                post(service, [{**ASKED[0], "age": 170, "region": "moon"}])
            assert refused.value.code == 400
            text = refused.value.read().decode()
            assert "row 0: age is outside the declared bounds [18, 90]; row 0: region is none of" in text
