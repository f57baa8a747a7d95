"""A client of a service: asks it in batches, waits where it says so, and ends where a budget does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
import torch
from torch import Tensor

from dptrain.contracts import ConfigError, DptrainError, OutOfQueries
from dptrain.redaction import redact
from dptrain.serving.server import is_loopback

TRIES = 5  # of a request to which nobody answers
SECONDS = 60.0  # that an answer may take
PATIENCE_SECONDS = 3600.0  # that a rate may ask to wait for at once
PAUSE_SECONDS = 0.2


class TooLarge(DptrainError):
    """A service takes fewer records at once."""


class HeldBack(ConfigError):
    """A service does not accept a key, or no more."""


@dataclass(kw_only=True)
class Client:
    """Asks a service by several keys in turn; counts what was asked, answered, and waited for.

    Before each request but the first it rests for `pause_seconds`, by `rest`; where the service asks to wait,
    it does so by `sleep`.
    """

    url: str
    keys: Sequence[str]
    sleep: Callable[[float], None] = time.sleep
    rest: Callable[[float], None] = time.sleep
    pause_seconds: float = 0.0
    at_once: int | None = None  # the most records in a request; None: what the service takes
    asked: int = 0
    answered: int = 0
    waited_seconds: float = 0.0
    spent: set[str] = field(default_factory=set)  # keys whose budget is
    held: set[str] = field(default_factory=set)  # keys that were held back once others were answered
    _turn: int = 0

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = not is_loopback(urlsplit(self.url).hostname or "")  # no proxy, then
        self._most: int | None = None

    def form(self) -> Mapping[str, Any]:
        """What the model takes, and what its answers are."""
        found: Mapping[str, Any] = self._asked("GET", "/v1/form", None, "")
        return found

    def predictions(self, inputs: Tensor) -> Tensor:
        """What the service answers of inputs (N, ...), on the CPU.

        Raises OutOfQueries where the budgets of all keys are spent, ConfigError where no key is accepted.
        """
        if self._most is None:
            most = int(self.form()["most_records"])
            self._most = most if self.at_once is None else min(most, self.at_once)
        waiting, answers = inputs.detach().cpu(), []
        while len(waiting):
            try:
                answers.append(self._batch(waiting[: self._most]))
            except TooLarge:
                self.asked -= len(waiting[: self._most])
                if self._most == 1:
                    raise
                self._most = max(1, self._most // 2)  # a rate, or its body, allows for fewer at once
            else:
                waiting = waiting[self._most :]
        return torch.cat(answers)

    def _batch(self, inputs: Tensor) -> Tensor:
        body = {"inputs": inputs.tolist()}
        if self.pause_seconds and self.asked:
            self.waited_seconds += self.pause_seconds
            self.rest(self.pause_seconds)
        self.asked += len(inputs)
        while left := [key for key in self.keys if key not in self.spent | self.held]:
            key = left[self._turn % len(left)]
            self._turn += 1
            try:
                found = self._asked("POST", "/v1/predict", body, key)
            except OutOfQueries:
                self.spent.add(key)
                continue
            except HeldBack:
                if not self.answered:
                    raise
                self.held.add(key)
                continue
            self.answered += len(inputs)
            return torch.tensor(found["predictions"], dtype=torch.float32)
        why = "each key is held back" if self.held else "its query budget is spent"
        raise OutOfQueries(
            f"the service at {redact(self.url)} answers no more: {why} after {self.answered} queries"
        )

    def _asked(self, method: str, path: str, body: Any, key: str) -> Any:
        """The answer to one request; waits where a rate says so, and tries again where nobody answers."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        failed = 0
        while True:
            try:
                answer = self._session.request(
                    method, self.url + path, json=body, headers=headers, timeout=SECONDS
                )
            except requests.RequestException as error:
                failed += 1
                if failed == TRIES:
                    raise DptrainError(
                        f"release={redact(self.url)} does not answer ({type(error).__name__}); start the "
                        "service, or correct the address"
                    ) from None
                self._wait(PAUSE_SECONDS * 2**failed)
                continue
            if answer.status_code == 200:
                return answer.json()
            self._refused(answer)

    def _refused(self, answer: requests.Response) -> None:
        """Wait, where that helps; else raise why not."""
        said = _detail(answer)
        wait = answer.headers.get("Retry-After", "")
        if answer.status_code in (429, 503) and wait.isdecimal() and int(wait) <= PATIENCE_SECONDS:
            self._wait(float(wait))
        elif answer.status_code == 413:
            raise TooLarge(f"release={redact(self.url)} takes no such request: {said}")
        elif answer.status_code == 429:
            raise OutOfQueries(said)
        elif answer.status_code in (401, 403):
            raise HeldBack(f"release={redact(self.url)}: {said} Give release.key_env, the name of a variable")
        else:
            raise DptrainError(f"release={redact(self.url)} answers {answer.status_code}: {said}")

    def _wait(self, seconds: float) -> None:
        self.waited_seconds += seconds
        self.sleep(seconds)


def keys_from(variable: str | None) -> tuple[str, ...]:
    """The keys in an environment variable, separated by commas; one empty one where none is named."""
    if variable is None:
        return ("",)
    found = tuple(each.strip() for each in os.environ.get(variable, "").split(",") if each.strip())
    if not found:
        raise ConfigError(
            f"release.key_env={variable}: this environment variable is not set; put the API key in it, or "
            "several, separated by commas"
        )
    return found


def _detail(answer: requests.Response) -> str:
    try:
        return str(answer.json()["detail"])[:300]
    except (ValueError, KeyError, TypeError):
        return "no reason is given."
