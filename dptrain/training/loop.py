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
from dptrain.training.augment import Augmentation
from dptrain.training.canaries import gradients
from dptrain.training.feed import Drawn
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
    keeper = _Keeper(session, settings.checkpoint_seconds)
    count = settings.evaluations
    evaluate_at = {round(steps * (i + 1) / count) for i in range(count)}  # evenly spread, the last step too
    if watch is not None:
        engine.keep_noise()
    if context.progress is not None:  # where it goes on from; nothing may be left to do
        taken = session.step
        context.progress(done=taken, total=steps, epsilon=epsilon_at(taken) if taken else 0.0)
    while session.step < steps:
        step = session.step + 1
        keeper.pay(step, epsilon_at(step))
        drawn = session.feed.draw()
        session.masks.next_step()
        session.model.train()
        if audit is not None and audit.due(step):
            audit.look(step, drawn, session, engine, accumulate)
        loss, shares = accumulate(session, drawn, session.feed.read)
        if watch is not None:
            watch.before(session.model)
        engine.update()
        if watch is not None:
            with session.masks.drawing():
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
            measured, held_out = evaluate(session.released, splits.holdout, context, task)
            session.history.append((step, measured, held_out))
            context.tracker.metric(f"holdout/{task.metric}", measured, step)
            context.tracker.metric("holdout/loss", held_out, step)
        if context.progress is not None:
            context.progress(done=step, total=steps, epsilon=epsilon_at(step))
        keeper.keep(last=step == steps)
    _check_finite(session.released)


def _accumulate(
    session: Session, drawn: Drawn, read: Read, *, engine: Engine, augment: Augmentation | None
) -> tuple[Tensor, Shares]:
    """Add up a logical batch in physical ones; its summed loss, and what probes and canaries added."""
    context = session.context
    loss = torch.zeros((), device=context.device)
    shares = Shares()

    def add(*parts: Tensor) -> None:
        nonlocal loss
        for part in parts:
            batch = read(part)
            batch = batch.to(context.device, context.dtype)
            inputs, labels = batch.inputs, batch.labels
            with session.masks.drawing():
                if augment is None:
                    loss = loss + engine.accumulate(inputs, labels)
                else:
                    watched = _watched(part, context)
                    loss = loss + _augmented(engine, augment, inputs, labels, watched, shares)

    add(*drawn.ordinary)
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


def _augmented(
    engine: Engine, augment: Augmentation, inputs: Tensor, labels: Tensor, watched: list[int], shares: Shares
) -> Tensor:
    """Add up the copies of these records; their summed loss.

    Random copies are seen once: what a planted record added is read off the sum, as the engine made it.
    """
    copies = augment(inputs).unflatten(0, (len(labels), augment.copies))
    apart = torch.tensor([index >= 0 for index in watched], device=labels.device)
    loss = engine.accumulate(
        copies[~apart].flatten(0, 1), labels[~apart].repeat_interleave(augment.copies, 0), augment.copies
    )
    for row, index in enumerate(watched):
        if index >= 0:
            before = engine.total()
            loss = loss + engine.accumulate(copies[row], labels[[row] * augment.copies], augment.copies)
            shares.planted[index] = engine.total() - before
    return loss


class _Keeper:
    """Pays for steps and keeps checkpoints, where the training has a folder to keep them in."""

    def __init__(self, session: Session, seconds: float) -> None:
        self.session = session
        self.folder = session.context.folder
        self.seconds = seconds
        self.written = time.monotonic()
        if self.folder is not None and session.step == 0:
            checkpoint.save(session.state_dict(), self.folder)

    def pay(self, step: int, epsilon: float) -> None:
        if self.folder is not None:
            checkpoint.pay(self.folder, steps=step, epsilon=epsilon)

    def keep(self, *, last: bool) -> None:
        now = time.monotonic()
        if self.folder is not None and (last or now - self.written >= self.seconds):
            checkpoint.save(self.session.state_dict(), self.folder)
            self.written = now


@torch.no_grad()
def evaluate(model: nn.Module, records: Records, context: Context, task: Task) -> tuple[float, float]:
    """The metric of the task and the mean loss of a model on these records."""
    was_training = model.training
    model.eval()
    batches = (batch.to(context.device, context.dtype) for batch in records.batches())
    found = task.evaluate((model(batch.inputs), batch.labels) for batch in batches)
    model.train(was_training)
    return found


def _check_finite(model: nn.Module) -> None:
    bad = [name for name, weights in model.named_parameters() if not torch.isfinite(weights).all()]
    if bad:
        raise DptrainError(f"training diverged: `{bad[0]}` is no longer finite; lower optimizer.lr")
