"""What serves on a machine of its own: compose.yaml, the container's stage, the systemd unit."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support import order

from dptrain.config import Config, parse
from dptrain.serving.keys import IN_FILE

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "scripts" / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
UNIT = (ROOT / "scripts" / "dptrain.service").read_text()


def asked(words: list[str]) -> Config:
    return parse(order(*words).config)


def stage(name: str) -> str:
    text = (ROOT / "scripts" / "Dockerfile").read_text()
    return text.partition(f" AS {name}\n")[2].partition("\nFROM ")[0]


def test_the_service_of_compose_is_what_hydra_composes() -> None:
    config = asked(SERVICES["serve"]["command"])
    assert (config.task, config.serve.workers) == ("serve", 2)
    assert config.serving["rates"]["storage"] == "redis://redis:6379"
    assert config.serve.store is not None
    assert "postgres" in SERVICES
    assert config.serve.store.split("@")[1] == "postgres/dptrain"
    mounted = {
        each.rsplit(":", 2)[-2] if each.endswith(":ro") else each.split(":")[-1]
        for each in SERVICES["serve"]["volumes"]
    }
    assert {config.serve.folder, config.release.source} == mounted


def test_no_secret_is_in_compose_and_no_port_is_open_to_others() -> None:
    files = {name: each["file"] for name, each in COMPOSE["secrets"].items()}
    assert all(file.startswith("secrets/") for file in files.values())
    for name, each in SERVICES.items():
        assert set(each.get("secrets", [])) <= files.keys()
        named = [value for value in each.get("environment", {}).values() if value.startswith("/run/secrets/")]
        assert {Path(value).name for value in named} == set(each.get("secrets", []))
        assert each["read_only"] is True
        assert "no-new-privileges:true" in each["security_opt"]
        assert all(port.startswith("127.0.0.1:") for port in each.get("ports", []))
        assert ("ports" in each) == (name == "serve")
        assert set(each["networks"]) <= COMPOSE["networks"].keys()
        used = [volume.split(":")[0] for volume in each["volumes"] if not volume.startswith("$")]
        assert set(used) <= COMPOSE["volumes"].keys()
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert SERVICES["serve"]["environment"].keys() == {"PGPASSFILE", IN_FILE}


def test_the_container_s_stage_serves_what_is_mounted_and_looks_after_itself() -> None:
    text = stage(SERVICES["serve"]["build"]["target"])
    (command,) = re.findall(r"^CMD \[(.*)\]$", text, flags=re.M)
    config = asked(yaml.safe_load(f"[{command}]"))
    assert (config.task, config.serve.host, config.serve.folder) == ("serve", "0.0.0.0", "/state")
    assert text.rstrip().rpartition("USER ")[2].startswith("dptrain")
    (health,) = re.findall(r'CMD \["python", "-c", "(.*)"\]', text)
    compile(health, "health", "exec")
    assert f":{config.serve.port}/health" in health


def test_the_unit_serves_on_the_loopback_from_its_own_folder() -> None:
    (line,) = re.findall(r"^ExecStart=(.*)$", UNIT, flags=re.M)
    program, *words = shlex.split(line)
    config = asked(words)
    assert Path(program).name == "dptrain"
    assert (config.task, config.serve.host, config.serve.keys) == ("serve", "127.0.0.1", True)
    assert config.serve.folder is not None
    assert config.serve.folder.startswith(
        f"/var/lib/{re.findall(r'^StateDirectory=(.*)$', UNIT, flags=re.M)[0]}/"
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_is_valid_and_hardened(tmp_path: Path) -> None:
    unit = tmp_path / "dptrain.service"
    unit.write_text(UNIT.replace("/opt/dptrain/bin/dptrain", sys.executable))
    verified = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", unit]
    assert (
        subprocess.run(judged, capture_output=True, check=False).returncode == 0
    )  # 2.0 of 10, the less the better
