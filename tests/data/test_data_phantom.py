from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from dptrain.contracts import ConfigError, Splits
from dptrain.data.phantom import ChestPhantom

pytestmark = pytest.mark.run


def load(seed: int = 0, **fields: object) -> Splits:
    settings = {"mean": [0.5], "std": [0.25], "train": 60, "holdout": 12, "test": 24} | fields
    return ChestPhantom(**settings).load(torch.Generator().manual_seed(seed))


def test_shape_and_names() -> None:
    splits = load()
    assert (len(splits.train), len(splits.holdout), len(splits.test)) == (60, 12, 24)
    assert splits.shape == (1, 28, 28)
    assert splits.classes == ("normal", "opacity")
    assert splits.train.inputs.dtype == torch.float32
    assert splits.train.inputs.isfinite().all()
    assert splits.train.inputs.min() >= 0.0
    assert splits.train.inputs.max() <= 1.0
    assert splits.source == "generated from seed, chest phantoms 28x28"
    assert splits.group_ids is None


def test_the_seed_decides_and_no_two_patients_are_alike() -> None:
    first, same, other = (load(seed).train.inputs for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    distances = torch.cdist(first.flatten(1), first.flatten(1)) + 100 * torch.eye(len(first))
    assert distances.min() > 0.5


def test_sizes_and_findings() -> None:
    splits = load(size=64, findings=["effusion", "nodule"], train=90)
    assert splits.shape == (1, 64, 64)
    assert splits.classes == ("normal", "effusion", "nodule")
    assert splits.train.labels.bincount(minlength=3).min() > 15


def test_records_of_a_patient_share_id_and_label_and_look_alike() -> None:
    splits = load(records_per_patient=3, train=90)
    assert splits.group_ids is not None
    assert splits.group_ids.tolist() == [i // 3 for i in range(90)]
    assert splits.test_group_ids is not None
    assert splits.test_group_ids.unique(return_counts=True)[1].unique().tolist() == [3]
    assert len(splits.test_group_ids) == len(splits.test)
    assert not torch.isin(splits.test_group_ids, splits.group_ids).any()
    assert load().test_group_ids is None
    by_patient = splits.train.labels.view(30, 3)
    assert (by_patient == by_patient[:, :1]).all()
    images = splits.train.inputs.flatten(1)
    distances = torch.cdist(images, images)
    same = splits.group_ids[:, None] == splits.group_ids
    own = distances[same & ~torch.eye(90, dtype=torch.bool)]
    assert own.min() > 0.5
    assert own.median() < distances[~same].median()


def test_an_opacity_brightens_lungs_a_little() -> None:
    splits = load(train=2000)
    normal, opaque = (splits.train.inputs[splits.train.labels == label].mean(0)[0] for label in (0, 1))
    difference = opaque - normal
    lungs = difference[9:18, 6:10].mean() + difference[9:18, 18:22].mean()
    assert 0.02 < lungs / 2 < 0.15
    assert difference[:2].abs().max() < 0.03


def test_a_linear_model_sees_something_but_not_all() -> None:
    """The finding is neither trivial nor absent."""
    splits = load(train=1500, test=500)
    torch.manual_seed(0)
    model = nn.Linear(784, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-2)
    inputs = splits.train.inputs.flatten(1)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), splits.train.labels).backward()
        optimizer.step()
    with torch.no_grad():
        scores = model(splits.test.inputs.flatten(1))
    assert 0.55 < roc_auc_score(splits.test.labels, scores[:, 1] - scores[:, 0]) < 0.95


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"findings": ["mass"]},
            r"data.findings=\['mass'\] must name, once each, some of opacity, effusion, nodule",
        ),
        ({"findings": []}, r"data.findings=\[\]"),
        ({"findings": ["nodule", "nodule"]}, "once each"),
        ({"size": 4}, "data.size=4 must be at least 16 pixels"),
        ({"records_per_patient": 0}, "data.records_per_patient=0 must be at least 1"),
        (
            {"records_per_patient": 7},
            "data.train=60 must be a positive multiple of data.records_per_patient=7",
        ),
        ({"test": 0}, "data.test=0 must be a positive multiple"),
    ],
)
def test_settings_that_cannot_be(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(**fields)
