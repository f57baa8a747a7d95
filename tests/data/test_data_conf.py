"""Every file of conf/data composes, and builds its source."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from dptrain.data.medmnist import SETS

pytestmark = pytest.mark.run

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(path.stem for path in (CONF / "data").glob("*.yaml"))
CHOICES = {
    "hf": ["data.path=own"],
    "npz": ["data.path=own.npz", "data.classes=[well,ill]"],
    "image_folder": ["data.root=images"],
    "member_files": ["data.members=in.npz", "data.non_members=out.npz", "data.classes=[well,ill]"],
    "tabular": [
        "data.path=own.csv",
        "data.columns={age: {kind: number, bounds: [0, 120]}}",
        "data.target=ill",
        "data.classes=[well,ill]",
    ],
    "medmnist": ["data.name=bloodmnist", "data.mean=[0.5,0.5,0.5]", "data.std=[0.25,0.25,0.25]"],
}
CONSTANTS = dict.fromkeys(
    ["pathmnist", "dermamnist", "retinamnist", "bloodmnist", "medmnist", "cifar10"], 3
) | {
    "adult": 49,
    "adult_age": 50,
    "german_credit": 63,
    "breast_cancer": 30,
}  # one a channel of images, a column of tables


def build(name: str, *overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+data={name}", *overrides])
    return instantiate(config.data)


@pytest.mark.parametrize("name", NAMES)
def test_a_choice_builds_its_source(name: str) -> None:
    source = build(name, *CHOICES.get(name, []))
    assert callable(source.load)
    assert len(source.mean) == len(source.std) == CONSTANTS.get(name, 1)
    assert (CONF / "data" / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("name", ["digits", "phantom", "breast_cancer"])
def test_sources_without_a_file_load(name: str, rng) -> None:
    splits = build(name).load(rng)
    assert splits.name == name
    assert len(splits.holdout) > 60


@pytest.mark.parametrize("name", SETS)
def test_each_medmnist_set_has_its_file(name: str) -> None:
    assert build(name).name == name
