"""The one training loop, private or not."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dptrain.contracts import Context, DptrainError, Records, Splits, Task
from dptrain.privacy.dpsgd import Engine
from dptrain.tasks import task_of
from dptrain.training import checkpoint
from dptrain.training.accumulate import add_up
from dptrain.training.augment import Augmentation
from dptrain.training.canaries import gradients
from dptrain.training.distribution import Team
from dptrain.training.feed import Drawn
from dptrain.training.leading import Leader
from dptrain.training.masks import AFTER
from dptrain.training.observe import Shares, Watch
from dptrain.training.sensitivity_audit import Read, SensitivityAudit
from dptrain.training.session import Session, check_buffers
from dptrain.training.settings import Settings


def train(
    session: Session,
    engine: Engine,
    splits: Splits,
    *,
    steps: int,
    settings: Settings,
    epsilon_at: Callable[[int], float],
    watch: Watch | None,
    audit: SensitivityAudit | None,
) -> None:
    """Take every step that is left, paying for each before it is taken."""
    context, records, task = session.context, splits.train, task_of(splits)
    accumulate = partial(_accumulate, engine=engine, augment=settings.augmentation)
    keeper = _Keeper(session, engine, settings.checkpoint_seconds, epsilon_at)
    count = settings.evaluations
    evaluate_at = {round(steps * (i + 1) / count) for i in range(count)}  # evenly spread, the last step too
    if watch is not None:
        engine.keep_noise()
    if context.progress is not None:  # where it goes on from; nothing may be left to do
        paid = session.paid
        context.progress(done=paid, total=steps, epsilon=epsilon_at(paid) if paid else 0.0)
    while session.paid < steps:
        step = session.step + 1
        keeper.take_others()
        keeper.pay()
        drawn = session.feed.draw()
        session.masks.next_step()
        session.model.train()
        if audit is not None and audit.due(step):
            audit.look(step, drawn, session, engine, accumulate)
        loss, shares = accumulate(session, drawn, session.feed.read, team=session.team)
        if audit is not None and audit.due(step) and session.team is not None:
            audit.compare(step, drawn, session, engine, accumulate)
        if not keeper.seal(step):
            keeper.start_over()
            continue
        if watch is not None:
            watch.before(session.current)
        engine.update()
        if watch is not None:
            with session.masks.drawing(AFTER):
                watch.after(step, drawn.sampled, records, engine.noise(), shares)
        session.schedule.step()
        if session.average is not None:
            session.average.update_parameters(session.model)
        session.step = step
        if settings.diagnostics:
            context.tracker.metric(
                "private_diagnostics/loss",
                float(loss) / max(1, int((drawn.sampled < len(records)).sum())),
                step,
            )
        if step in evaluate_at:
            check_buffers(session.buffers, session.model)  # before anything that depends on them is published
            keeper.settle()
            measured, held_out = evaluate(session.released, splits.holdout, context, task)
            session.history.append((step, measured, held_out))
            session.consider(settings.early_stopping)
            context.tracker.metric(f"holdout/{task.metric}", measured, step)
            context.tracker.metric("holdout/loss", held_out, step)
        if context.progress is not None:
            context.progress(done=session.paid, total=steps, epsilon=epsilon_at(session.paid))
        keeper.keep(last=session.paid == steps)
    _check_finite(session.released)


def _accumulate(
    session: Session,
    drawn: Drawn,
    read: Read,
    *,
    engine: Engine,
    augment: Augmentation | None,
    team: Team | Leader | None = None,
) -> tuple[Tensor, Shares]:
    """Add up a logical batch in physical ones; its summed loss, and what probes and canaries added.

    Of the ordinary ones a `team` computes those whose turn is not this process's. Each has masks of its own,
    by its number in the step.
    """
    context = session.context
    loss = torch.zeros((), device=context.device)
    shares = Shares()
    blocks = enumerate((*drawn.ordinary, *drawn.watched, *drawn.probes))
    numbered = {id(part): number for number, part in blocks}

    def add(*parts: Tensor) -> None:
        nonlocal loss
        for part in parts:
            batch = read(part).to(context.device, context.dtype)
            with session.masks.drawing(numbered[id(part)]):
                watched = _watched(part, context)
                loss = loss + add_up(engine, batch, augment, watched=watched, shares=shares)

    if team is None:
        add(*drawn.ordinary)
    else:
        team.begin(engine, session.model, session.masks.step_key, drawn.ordinary)
        add(*drawn.ordinary[:: team.size])
        loss = loss + team.collect()
    add(*drawn.watched)
    if drawn.probes:
        before = engine.total()
        add(drawn.probes[0])
        shares.alone = engine.total() - before
        add(*drawn.probes[1:])
        shares.of["probes"] = engine.total() - before
    if context.canaries is not None and len(drawn.canaries):
        before = engine.total()
        for rows in gradients(context.canaries, drawn.canaries, session.model):
            engine.accumulate_gradients(rows)
        shares.of["canaries"] = engine.total() - before
    return loss, shares


def _watched(part: Tensor, context: Context) -> list[int]:
    """The planted records of a physical batch, by index; -1 for all others, and where nobody looks on."""
    if not context.observers:
        return [-1] * len(part)
    return [index if index in context.planted else -1 for index in part.tolist()]


class _Keeper:
    """Pays for steps and keeps checkpoints, where the training has a folder to keep them in."""

    def __init__(
        self, session: Session, engine: Engine, seconds: float, epsilon_at: Callable[[int], float]
    ) -> None:
        self.session, self.engine, self.epsilon_at = session, engine, epsilon_at
        self.folder = session.context.folder
        self.seconds = seconds
        self.written = time.monotonic()
        if self.folder is not None and not (self.folder / checkpoint.CHECKPOINT).exists():
            session.save(self.folder)
        self.seals = {} if self.folder is None else checkpoint.seals(self.folder)
        self.due = 0 if self.folder is None else checkpoint.paid(self.folder)  # paid for, before this process

    def take_others(self) -> None:
        """Where what is repeated is repeated, take other secrets for all that comes, and keep them first.

        A copy of the folder, or this one after another stop, may come to other sums in these steps. Until the
        checkpoint is written what is repeated has the draws of the one before, and afterwards it is in it.
        """
        if self.folder is not None and self.session.repeated == self.session.step:
            self.session.renew(0)
            self._save()

    def pay(self) -> None:
        """Pay for the next step, unless it was paid for before."""
        paid = self.session.paid + 1
        if self.folder is not None and paid > self.due:
            checkpoint.pay(self.folder, steps=paid, epsilon=self.epsilon_at(paid))

    def seal(self, step: int) -> bool:
        """Keep the tag of a step's sum before noise is added to it; not if it was once added to another sum.

        Of the last step that was paid for there may be no tag: then no noise was added.
        """
        if self.folder is None or (tag := self.engine.seal()) is None:
            return True
        paid = self.session.paid + 1
        if paid <= self.due and self.seals.get(step, tag if paid == self.due else None) != tag:
            return False
        checkpoint.seal(self.folder, step=step, tag=tag)
        return True

    def start_over(self) -> None:
        """Go back to the checkpoint, and on from there with other draws: what was paid for since is lost.

        Not from the step whose sum is another one: which it is depends on the records.
        """
        assert self.folder is not None
        state = checkpoint.load(self.folder)
        assert state is not None, "what is repeated was begun from a checkpoint"
        self.engine.forget()
        self.session.load_state_dict(state)
        self.session.renew(self.due - self.session.paid)
        self._save()

    def _save(self) -> None:
        """Write a checkpoint of other secrets: the tags of sums under those before it are of no use."""
        assert self.folder is not None
        self.session.save(self.folder)
        checkpoint.forget_seals(self.folder)
        self.seals = {}
        self.written = time.monotonic()

    def settle(self) -> None:
        """Before something is told of the steps so far: a machine that fails must not forget them."""
        if self.folder is not None:
            checkpoint.settle(self.folder)

    def keep(self, *, last: bool) -> None:
        now = time.monotonic()
        if self.folder is not None and (last or now - self.written >= self.seconds):
            self.session.save(self.folder)
            checkpoint.forget_seals(self.folder, until=self.session.step)
            self.written = now


@torch.no_grad()
def evaluate(model: nn.Module, records: Records, context: Context, task: Task) -> tuple[float, float]:
    """The metric of the task and the mean loss of a model on these records."""
    was_training = model.training
    model.eval()
    device = next((each.device for each in model.parameters()), context.device)
    batches = (batch.to(device, context.dtype) for batch in records.batches())
    found = task.evaluate((model(batch.inputs), batch.labels) for batch in batches)
    model.train(was_training)
    return found


def _check_finite(model: nn.Module) -> None:
    bad = [name for name, weights in model.named_parameters() if not torch.isfinite(weights).all()]
    if bad:
        raise DptrainError(f"training diverged: `{bad[0]}` is no longer finite; lower optimizer.lr")
