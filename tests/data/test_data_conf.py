"""Every file of conf/data composes, and builds its source."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from dptrain.data.medmnist import SETS

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(path.stem for path in (CONF / "data").glob("*.yaml"))
CHOICES = {
    "npz": ["data.path=own.npz", "data.classes=[well,ill]"],
    "image_folder": ["data.root=images"],
    "medmnist": ["data.name=bloodmnist", "data.mean=[0.5,0.5,0.5]", "data.std=[0.25,0.25,0.25]"],
}
IN_COLOUR = {"pathmnist", "dermamnist", "retinamnist", "bloodmnist", "medmnist", "cifar10"}


def build(name: str, *overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+data={name}", *overrides])
    return instantiate(config.data)


@pytest.mark.parametrize("name", NAMES)
def test_a_choice_builds_its_source(name: str) -> None:
    source = build(name, *CHOICES.get(name, []))
    assert callable(source.load)
    assert len(source.mean) == len(source.std) == (3 if name in IN_COLOUR else 1)
    assert (CONF / "data" / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("name", ["digits", "phantom"])
def test_sources_without_a_file_load(name: str, rng) -> None:
    splits = build(name).load(rng)
    assert splits.name == name
    assert len(splits.holdout) > 200


@pytest.mark.parametrize("name", SETS)
def test_each_medmnist_set_has_its_file(name: str) -> None:
    assert build(name).name == name
