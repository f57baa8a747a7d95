"""Noisy answers that are paid for: kept in the run's folder before anything is made of them.

The file is the ledger. It is written whole or not at all, and nothing was seen of noisy counts that are not
in it: a run that is killed before draws anew and pays once; one that is killed after finds them and pays no
more.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from dptrain.contracts import DptrainError, Records
from dptrain.privacy.votes import VotesPlan
from dptrain.storage import write_bytes

ANSWERS = "answers.pt"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Noisy counts (questions, classes) under a plan, and digests of the inputs asked about."""

    plan: VotesPlan
    asked: Tensor
    counts: Tensor


def keep(answers: Answers, folder: Path) -> None:
    """Write the answers, to the disk, for the run's owner only (mode 0600)."""
    content = io.BytesIO()
    torch.save({"plan": asdict(answers.plan), "asked": answers.asked, "counts": answers.counts}, content)
    write_bytes(content.getbuffer(), folder / ANSWERS, private=True, durable=True)


def kept(folder: Path, plan: VotesPlan, asked: Records) -> Answers | None:
    """The answers in this folder; None where none are paid for.

    Raises DptrainError where they cannot be read, or were paid for under another plan or for other inputs: to
    ask again would be to pay again.
    """
    for half_written in folder.glob(f".{ANSWERS}.*"):  # of a process that was killed: seen by nobody
        half_written.unlink(missing_ok=True)
    path = folder / ANSWERS
    if not path.exists():
        return None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        answers = Answers(plan=VotesPlan(**found["plan"]), asked=found["asked"], counts=found["counts"])
    except Exception as error:  # whatever a damaged file makes torch.load raise
        raise DptrainError(
            f"resume={folder}: {path.name} cannot be read ({type(error).__name__}), so the answers that are "
            "paid for are lost; start a new run, which pays anew"
        ) from error
    if answers.plan != plan:
        before, now = asdict(answers.plan), asdict(plan)
        differ = [key for key in now if before[key] != now[key]]
        changed = "; ".join(f"{key}={before[key]} is now {now[key]}" for key in differ)
        raise DptrainError(
            f"resume={folder}: it was begun under another plan ({changed}); resume it with the data and the "
            "library versions that it was begun with, or start a new run"
        )
    if not torch.equal(answers.asked, asked.digests()):
        raise DptrainError(
            f"resume={folder}: other public inputs would be asked about than those that are paid for; resume "
            "it on the machine, the public data and the library versions that it was begun with, or start a "
            "new run"
        )
    return answers
