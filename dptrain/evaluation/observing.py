"""Attacks that look on while a model trains: how long they look, at how many steps, and what fails."""

from __future__ import annotations

import time
from typing import Any

from dptrain.contracts import DptrainError, Observation, Observer
from dptrain.evaluation.failures import said


class Timed:
    """An observer that knows how long it has looked, and at how many steps.

    Its time counts as the attack's; an attack that was not shown every step cannot say that there was
    nothing to see. One that fails looks no further, and its attack fails when its turn comes: what an
    attack makes of the records must not decide whether a training ends well.
    """

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.seconds = 0.0
        self.steps = 0  # different ones, in their order
        self.error: Exception | None = None
        self._last = 0

    @property
    def transcript(self) -> Observer:
        """The observer, which has seen every step; raises what it failed by where it has not."""
        if self.error is not None:
            raise self.error
        return self.observer

    def observe(self, step: Observation) -> None:
        if step.step > self._last:
            self.steps, self._last = self.steps + 1, step.step
        if self.error is not None:
            return
        started = time.perf_counter()
        try:
            self.observer.observe(step)
        except Exception as error:
            self.error = error
        self.seconds += time.perf_counter() - started

    def state_dict(self) -> dict[str, Any]:
        return {
            "seen": self.observer.state_dict(),
            "steps": self.steps,
            "last": self._last,
            "failed": None if self.error is None else said(self.error),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.observer.load_state_dict(state["seen"])
        self.steps, self._last = state["steps"], state["last"]
        if state["failed"] is not None:
            self.error = DptrainError(
                f"an attack failed while it looked on, before this run was resumed ({state['failed']}), and "
                "has not seen the whole training; mend it, or leave it out, and start a new run"
            )
