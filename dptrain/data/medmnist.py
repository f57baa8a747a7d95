"""The two-dimensional sets of MedMNIST v2, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dptrain.contracts import ConfigError, DataError, Splits
from dptrain.data.checks import to_records
from dptrain.data.files import download, find, md5_of, read_npz
from dptrain.data.labels import Target
from dptrain.data.splits import assemble, assignment_key

ORGANS = (
    "bladder; femur-left; femur-right; heart; kidney-left; kidney-right; liver; lung-left; lung-right; "
    "pancreas; spleen"
)
FOLDED = "chestmnist"  # whose findings can be folded into one
KEYS = tuple(f"{part}_{kind}" for part in ("train", "val", "test") for kind in ("images", "labels"))


@dataclass(frozen=True, kw_only=True)
class Published:
    """What MedMNIST publishes about one of its files: MD5 checksum and names of the classes."""

    md5: str
    classes: tuple[str, ...]
    task: str = "classification"

    @classmethod
    def of(cls, md5: str, classes: str, task: str = "classification") -> Published:
        """From names of classes that semicolons divide."""
        return cls(md5=md5, classes=tuple(classes.split("; ")), task=task)


SETS = {
    "pathmnist": Published.of(
        "a8b06965200029087d5bd730944a56c1",
        "adipose; background; debris; lymphocytes; mucus; smooth muscle; normal colon mucosa; "
        "cancer-associated stroma; colorectal adenocarcinoma epithelium",
    ),
    "chestmnist": Published.of(
        "02c8a6516a18b556561a56cbdd36c4a8",
        "atelectasis; cardiomegaly; effusion; infiltration; mass; nodule; pneumonia; pneumothorax; "
        "consolidation; edema; emphysema; fibrosis; pleural thickening; hernia",
        "multi_label",
    ),
    "dermamnist": Published.of(
        "0744692d530f8e62ec473284d019b0c7",
        "actinic keratoses and intraepithelial carcinoma; basal cell carcinoma; benign keratosis-like "
        "lesions; dermatofibroma; melanoma; melanocytic nevi; vascular lesions",
    ),
    "octmnist": Published.of(
        "c68d92d5b585d8d81f7112f81e2d0842",
        "choroidal neovascularization; diabetic macular edema; drusen; normal",
    ),
    "pneumoniamnist": Published.of("28209eda62fecd6e6a2d98b1501bb15f", "normal; pneumonia"),
    "retinamnist": Published.of(
        "bd4c0672f1bba3e3a89f0e4e876791e4", "grade 0; grade 1; grade 2; grade 3; grade 4", "ordinal"
    ),
    "breastmnist": Published.of("750601b1f35ba3300ea97c75c52ff8f6", "malignant; normal, benign"),
    "bloodmnist": Published.of(
        "7053d0359d879ad8a5505303e11de1dc",
        "basophil; eosinophil; erythroblast; immature granulocytes (myelocytes, metamyelocytes and "
        "promyelocytes); lymphocyte; monocyte; neutrophil; platelet",
    ),
    "tissuemnist": Published.of(
        "ebe78ee8b05294063de985d821c1c34b",
        "Collecting Duct, Connecting Tubule; Distal Convoluted Tubule; Glomerular endothelial cells; "
        "Interstitial endothelial cells; Leukocytes; Podocytes; Proximal Tubule Segments; Thick Ascending "
        "Limb",
    ),
    "organamnist": Published.of("68e3f8846a6bd62f0c9bf841c0d9eacc", ORGANS),
    "organcmnist": Published.of("b9ceb9546e10131b32923c5bbeaea2b1", ORGANS),
    "organsmnist": Published.of("9ab87b696fb54e2a387ebe992d6ed5f1", ORGANS),
}


@dataclass(frozen=True, kw_only=True)
class MedMNIST:
    """One set, 28x28, with its official division: holdout is the official validation part.

    `<name>.npz` is looked for in `root`, in the folder DPTRAIN_DATA and in `cache`, and then
    downloaded from `url` (Zenodo) into `cache`. A file of the user's own may have another
    checksum, which `Splits.source` then tells; a download may not. `md5` is what to expect of
    another `url`. ChestMNIST's fourteen findings are several labels a record, RetinaMNIST's grades are in an
    order. As `task=classification` the findings are folded into one, "any finding", and grades are
    mere classes.
    Source: Yang et al. 2023, Scientific Data 10:41; files of https://zenodo.org/records/10519652.
    """

    name: str
    mean: Sequence[float]
    std: Sequence[float]
    root: str | None = None
    cache: str | None = None
    url: str | None = None
    md5: str | None = None
    class_prior: Sequence[float] | None = None
    split_key: str | None = None
    task: str | None = None  # None: the set's own

    def __post_init__(self) -> None:
        if self.name not in SETS:
            raise ConfigError(f"data.name={self.name} must be one of {', '.join(SETS)}")
        known = dict.fromkeys([SETS[self.name].task, "classification"])
        if self.task not in (None, *known):
            raise ConfigError(
                f"data.task={self.task} is not what labels of {self.name} are; use null, or "
                f"{' or '.join(known)}"
            )

    @property
    def target(self) -> Target:
        """What its labels are."""
        task, classes = self.task or SETS[self.name].task, SETS[self.name].classes
        if self.name == FOLDED and task == "classification":
            classes = ("no finding", "any finding")
        return Target.of(task, classes=classes)

    def load(self, rng: torch.Generator) -> Splits:
        path = find(f"{self.name}.npz", root=self.root)
        if path is None:
            url = self.url or f"https://zenodo.org/records/10519652/files/{self.name}.npz?download=1"
            md5 = self.md5 or SETS[self.name].md5
            path = download(f"{self.name}.npz", url=url, md5=md5, root=self.root, cache=self.cache)
        source, found, official = str(path), md5_of(path), SETS[self.name].md5
        if found != official:
            source += f" (md5 {found} differs from MedMNIST's {official})"
        arrays = read_npz(path, KEYS)
        target = self.target
        if self.name == FOLDED and target.task is None:
            source += "; any of 14 findings against none"
            for key in ("train_labels", "val_labels", "test_labels"):
                arrays[key] = _any_finding(arrays[key], name=f"{key} of {path}")
        secret = assignment_key(rng, self.split_key)
        train, val, test = (
            to_records(
                arrays, part, where=str(path), num_classes=len(target.classes), read_labels=target.read
            )
            for part in ("train", "val", "test")
        )
        return assemble(
            name=self.name,
            source=source,
            train=train,
            holdout=val,
            test=test,
            classes=target.classes,
            task=target.task,
            mean=self.mean,
            std=self.std,
            class_prior=self.class_prior,
            key=secret,
        )


def _any_finding(labels: np.ndarray, *, name: str) -> np.ndarray:
    """Labels (N,) in {0, 1} from findings (N, 14) in {0, 1}."""
    if labels.ndim != 2 or labels.shape[1] != 14:
        raise DataError(f"{name} has shape {tuple(labels.shape)}: store 14 findings a record, (N, 14)")
    if not np.isin(labels, (0, 1)).all():
        raise DataError(f"{name} holds other values than 0 and 1: store 1 for a finding, 0 for none")
    return np.asarray(labels.any(axis=1), dtype=np.uint8)
