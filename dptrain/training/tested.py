"""What is tried out of a model before it is trained, and again before it is released."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from dptrain.contracts import BrokenGuarantee, ConfigError, Context, Form, RecordLoss, Release, Splits
from dptrain.models.frozen import split
from dptrain.privacy.independence.check import find_dependence
from dptrain.privacy.independence.state import NOTE, fingerprint
from dptrain.tasks import task_of
from dptrain.training.augment import Augmentation
from dptrain.training.features import CHUNK, Features
from dptrain.training.settings import Settings


def refuse_dependence(model: nn.Module, splits: Splits, settings: Settings) -> None:
    """Raise ConfigError where model, loss or augmentation mix records or remember them, naming where.

    A model that was found to be in order carries a note of it, good for as long as nothing about it changes.
    """
    surroundings = (splits.forms, task_of(splits), settings.augmentation, settings.regularisers)
    subject = fingerprint(model, surroundings)
    if vars(model).pop(NOTE, None) == subject:
        return
    found = _find(model, splits, settings.loss(splits))
    if found is None and settings.augmentation is not None:
        found = find_dependence(
            Copies(settings.augmentation),
            forms=splits.forms,
            labels=task_of(splits).made_up,
            loss=lambda made, _: made.flatten(1).sum(1),
            subject=f"training.augmentations={settings.augmentation.copies}",
        )
    if found is not None:
        raise ConfigError(found)
    setattr(model, NOTE, subject)


def frozen_part(model: nn.Module) -> str | None:
    """A fingerprint of the part that no training changes; None where all of a model may be trained."""
    parts = split(model)
    return None if parts is None else fingerprint(parts[0], ())


def refuse_company(model: nn.Module, splits: Splits, context: Context) -> None:
    """Raise ConfigError where a record's features are rounded otherwise beside other records.

    One record would then change what is made of all others: next to nothing of it, but more than nothing.
    """
    parts = split(model)
    if parts is None:
        return
    make, form = Features(parts[0], context), splits.forms
    assert isinstance(form, Form), "who asks takes inputs of one tensor"
    low, high = form.bounds
    rng = torch.Generator().manual_seed(0)
    rows = low + (high - low) * torch.rand(CHUNK, *form.shape, generator=rng)
    rows = rows.round().long() if form.whole else rows
    # Among as many as there ever are; each at another place; and alone but for rows that are no record.
    every, elsewhere, few = (
        make.of_each(rows),
        make.of_each(rows.roll(7, 0)).roll(-7, 0),
        make.of_each(rows[:40]),
    )
    same = partial(torch.allclose, rtol=0.0, atol=0.0, equal_nan=True)
    if not (same(every, elsewhere) and same(every[:40], few)):
        raise ConfigError(
            "model: features of a record are rounded otherwise beside other records, so that one record "
            "would change what is made of the others; choose another frozen part or device, or "
            "mechanism=dpsgd"
        )


def refuse_dependent_release(
    release: Release, splits: Splits, *, frozen: str | None, loss: RecordLoss | None = None
) -> None:
    """Raise BrokenGuarantee where the trained weights make a model mix records that its first ones did not.

    Its noise is paid for, but what it was trained by is not what was accounted: nothing is released.
    `frozen` is what `frozen_part` gave of the model that `refuse_dependence` let pass: where that part is
    the same still, the head alone is tried out. `loss` is what it was trained by; None: the task's own.
    """
    model = release.blank()
    assert release.weights is not None
    model.load_state_dict(dict(release.weights), assign=True)  # of a large model one copy less
    parts = split(model) if frozen == frozen_part(model) else None
    loss = task_of(splits).loss if loss is None else loss
    found = _find(model, splits, loss) if parts is None else _find(parts[1], splits, loss, on=parts[0])
    if found is not None:
        raise BrokenGuarantee(
            f"{found}. This shows with the trained weights only, so the training was not as private as its "
            "guarantee says, and the model is not released"
        )


def _find(model: nn.Module, splits: Splits, loss: RecordLoss, *, on: nn.Module | None = None) -> str | None:
    return find_dependence(model, forms=splits.forms, labels=task_of(splits).made_up, loss=loss, on=on)


class Copies(nn.Module):
    """The copies of each record, (n, copies, ...)."""

    def __init__(self, augmentation: Augmentation) -> None:
        super().__init__()
        self.augmentation = augmentation

    def forward(self, inputs: Tensor) -> Tensor:
        return self.augmentation(inputs).unflatten(0, (len(inputs), self.augmentation.copies))
