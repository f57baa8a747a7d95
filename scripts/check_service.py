#!/usr/bin/env python3
"""Attacks a service through its OpenAPI document, and past it: python scripts/check_service.py

Three services of small models, each behind every guard, are asked over HTTP: one takes images, one the
columns of a table, one named arrays. Requests are drawn by schemathesis from the document (valid ones,
and ones that break it somewhere), and by hand what no document describes: bodies that are too large, nest too
deeply, hold NaN, come slowly or never, headers without end. Looked at is each answer (no 5xx, as the document
says, no key, no text of a traceback, nothing of a marked record), the log likewise, seconds and memory.

The last line is one JSON object: requests, statuses, wrong (what was found), slowest_seconds, growth_mib. The
exit code is 1 where anything is wrong. Needs the extra `test`.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import resource
import socket
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import schemathesis
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from torch import Tensor, nn

from dptrain.contracts import Form, Forms, Raw
from dptrain.data.columns import Category, Number
from dptrain.data.raw import of_images, of_table
from dptrain.serving.app import make_app
from dptrain.serving.detection.detectors import Distances, OffManifold
from dptrain.serving.detection.guard import Detection
from dptrain.serving.forms import bounds_of
from dptrain.serving.guard import Surroundings
from dptrain.serving.keys import SCOPES, Keys
from dptrain.serving.ledger import QueryBudget
from dptrain.serving.model import ServedModel
from dptrain.serving.rates import Rates
from dptrain.serving.recording import Recording
from dptrain.serving.server import running
from dptrain.serving.service import Bounds, Service
from dptrain.serving.store import Store

BODY_BYTES, RECORDS, BODY_SECONDS = 65536, 8, 0.5
MARK = 0.123456789012345  # a value of records that is looked for in answers and logs
TOLD = ("Traceback", ".py", "site-packages", "sqlalchemy", "0.12345678")  # of the service, or of a record
OTHERS = 10  # requests of each route that takes no body
MOST_SECONDS, MOST_MIB = 10.0, 200.0


# What a document cannot say (as many records of each name, what a cell may hold) is refused all the same, and
# that a body is too large is not among the refusals that schemathesis knows.
UNSAID: Mapping[int, list[Any]] = defaultdict(
    list, {422: [positive_data_acceptance], 413: [negative_data_rejection, positive_data_acceptance]}
)


class Together(nn.Module):
    """A linear model of all that it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.last = nn.Linear(width, 3)

    def forward(self, inputs: Any) -> Tensor:
        parts = inputs.values() if isinstance(inputs, Mapping) else [inputs]
        flat = torch.cat([each.reshape(len(each), -1).float() for each in parts], dim=1)
        return self.last(flat / 300).softmax(-1)


COLUMNS = (
    Number(name="age", low=0, high=120),
    Number(name="income", low=0, high=1e6, missing=True),
    Category(name="housing", declared=("rent", "own")),
)
MODELS: dict[str, tuple[Forms, Raw | None]] = {
    "images": (Form(shape=(1, 4, 4)), of_images((1, 4, 4))),
    "table": (Form(shape=(5,), bounds=(-1.0, 1.0)), of_table(COLUMNS)),
    "named": ({"values": Form(shape=(2, 3)), "tokens": Form(shape=(4,), bounds=(0, 255), whole=True)}, None),
}


@dataclass(kw_only=True)
class Found:
    """What requests met."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0

    def look(self, what: str, status: int, said: str, seconds: float, key: str) -> None:
        """Note what is wrong with an answer, whatever it answers."""
        self.statuses[status] += 1
        self.slowest_seconds = max(self.slowest_seconds, seconds)
        if status >= 500:
            self.wrong[f"{what}: {status}"] += 1
        for each in (*secrets_of(key), *TOLD):
            if each in said and (each not in TOLD or status != 200):
                self.wrong[f"{what}: tells {each if each in TOLD else 'the key'}"] += 1


def secrets_of(key: str) -> tuple[str, str]:
    """What no answer and no log may hold of a key."""
    return key, key.split("_", 2)[2]


class Kept(logging.Handler):
    """What was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.text.append(f"{record.name}: {record.getMessage()} {record.exc_info or ''}")


@contextmanager
def served(name: str, folder: Path) -> Iterator[tuple[str, str]]:
    """A service of one of the models behind every guard: its URL, and a key with all scopes."""
    forms, raw = MODELS[name]
    torch.manual_seed(0)
    low, high = bounds_of(forms)
    model = ServedModel(
        title=name, answers=Together(len(low)).eval(), names=("a", "b", "c"), forms=forms, raw=raw,
        statement={"status": "unknown"}, card="# A card\n", digest="0" * 64, output="confidences",
        task="classification",
    )  # fmt: skip
    store, secret = Store(folder), bytes(range(32))
    normal = low + (high - low) * torch.rand(200, len(low), generator=torch.Generator().manual_seed(1))
    surroundings = Surroundings(
        store=store, model=model.digest, classes=3, forms=forms, folder=folder, secret=secret,
        calibration=lambda: normal, answer=lambda rows: torch.full((len(rows), 3), 1 / 3), recorded=True,
    )  # fmt: skip
    detectors = {"off_manifold": OffManifold(), "distances": Distances()}
    guards = {
        "rates": Rates(key=["1000000/second"]),
        "detection": Detection(
            detectors=detectors, query_detectors=["off_manifold"], checks=[10], length=20, slow_seconds=0.0
        ),
        "record": Recording(),
        "budget": QueryBudget(),
    }
    service = Service(
        model=model,
        guards={name: guard.start(surroundings) for name, guard in guards.items()},
        store=store,
        keys=Keys(store, secret),
        bounds=Bounds(body_bytes=BODY_BYTES, body_seconds=BODY_SECONDS, records=RECORDS, waiting=64),
        secret=secret,
        prior=torch.full((3,), 1 / 3),
    )
    assert service.keys is not None
    key = service.keys.make(tenant="checks", scopes=SCOPES, days=None)
    try:
        with running(make_app(service), "127.0.0.1", 0) as url:
            yield url, key
    finally:
        service.close()


def drawn(url: str, key: str, count: int, found: Found, *, start: int) -> None:
    """Ask what schemathesis draws from the document: so many requests, nearly all of them for predictions."""
    session = requests.Session()
    session.trust_env = False
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [each.ok() for each in schema.get_all_operations()]
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    last = found.statuses.total() + count
    for operation in sorted(operations, key=lambda each: bool(each.path == "/v1/predict")):
        predicts = operation.path == "/v1/predict"
        left = math.ceil((last - found.statuses.total()) / 2)
        for mode in modes if predicts else modes[:1]:
            many = max(1, left) if predicts else OTHERS

            @seed(start)
            @settings(
                max_examples=many, deadline=None, database=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                what = f"{case.method} {case.path}"
                answer = case.call(session=session, headers={"Authorization": f"Bearer {key}"})
                found.look(what, answer.status_code, answer.text_lossy(), answer.elapsed, key)
                try:
                    case.validate_response(answer, excluded_checks=UNSAID[answer.status_code])
                except FailureGroup as group:
                    for each in group.exceptions:
                        found.wrong[f"{what}: {each}"[:400]] += 1

            ask()


def hostile() -> Iterator[tuple[str, bytes]]:
    """Bodies that no document describes."""
    row = json.dumps([[MARK] * 4] * 4)
    yield "too large", b" " * (BODY_BYTES + 1)
    yield "nested", b'{"inputs": ' + b"[" * 30000 + b"]" * 30000 + b"}"
    yield "nested objects", b'{"a":' * 9000 + b"1" + b"}" * 9000
    yield "NaN", f'{{"inputs": [[{row.replace("]]", ", NaN]]", 1)}]]}}'.encode()
    yield "infinite", b'{"inputs": [[[[1e999]]]]}'
    yield "digits", b'{"inputs": [[[[' + b"9" * 60000 + b"]]]]}"
    yield "a record, broken", f'{{"inputs": [[{row}]], "records": {row}}}'.encode()
    yield "another shape", f'{{"inputs": [{row}]}}'.encode()
    yield "many keys", json.dumps({"records": [{f"c{number}": MARK for number in range(2000)}]}).encode()
    yield "a key twice", b'{"inputs": 1, "inputs": 2}'
    yield "no text", bytes(range(256)) * 8
    yield "surrogates", b'{"records": [{"housing": "\\ud800", "age": "\\u0000"}]}'
    yield "cells", json.dumps({"records": [{"age": [[[[MARK]]]], "housing": {"a": 1}}]}).encode()
    yield "a long cell", json.dumps({"records": [{"housing": "x" * 60000, "age": "9" * 4000}]}).encode()
    yield "a PNG of nothing", b"\x89PNG\r\n\x1a\n" + b"\0" * 200


def by_hand(url: str, key: str, found: Found) -> None:
    """Send hostile bodies as each media type, then what is no HTTP, slow, or without an end."""
    session = requests.Session()
    session.trust_env = False
    for name, body in hostile():
        for kind in ("application/json", "image/png"):
            headers = {"Authorization": f"Bearer {key}", "Content-Type": kind}
            answer = session.post(f"{url}/v1/predict", body, headers=headers, timeout=60)
            found.look(name, answer.status_code, answer.text, answer.elapsed.total_seconds(), key)
            if not 400 <= answer.status_code < 500:
                found.wrong[f"{name}: {answer.status_code} is no refusal"] += 1
    host, _, port = url.removeprefix("http://").partition(":")
    head = f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
    for name, sent in {
        "a slow body": f"{head}Content-Length: 1000\r\n\r\n{{",
        "a slow chunk": f"{head}Transfer-Encoding: chunked\r\n\r\n100\r\n{{",
        "no number": f"{head}Content-Length: many\r\n\r\n{{",
        "two lengths": f"{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "a chunk of no size": f"{head}Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "a long header": f"{head}X: {'a' * 100_000}\r\n\r\n",
        "no HTTP": f"{key}\r\n\r\n",
    }.items():
        began = time.monotonic()
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            try:
                connection.sendall(sent.encode())
                said = connection.recv(65536).decode("latin-1")
            except ConnectionError:
                said = ""  # it was closed while there was more to come
        status = int(said.split(" ")[1]) if said.startswith("HTTP/") else 0
        found.look(name, status, said, time.monotonic() - began, key)
        if status and not 400 <= status < 500:
            found.wrong[f"{name}: {status} is no refusal"] += 1


def check(count: int, *, names: Sequence[str] = tuple(MODELS), start: int = 0) -> dict[str, Any]:
    """So many drawn requests in all, and those by hand for each of the named services; what was found."""
    found, kept = Found(), Kept()
    logging.getLogger().addHandler(kept)
    growth = 0.0
    try:
        for name in names:
            with tempfile.TemporaryDirectory() as folder, served(name, Path(folder)) as (url, key):
                drawn(url, key, count // len(names), found, start=start)
                before = _peak_mib()
                by_hand(url, key, found)
                growth = max(growth, _peak_mib() - before)
                for each in (*secrets_of(key), str(MARK), "Traceback"):
                    if any(each in line for line in kept.text):
                        found.wrong[f"{name}: the log tells {each if each == str(MARK) else 'too much'}"] += 1
    finally:
        logging.getLogger().removeHandler(kept)
    if found.slowest_seconds > MOST_SECONDS:
        found.wrong[f"an answer took {found.slowest_seconds:.1f} seconds"] += 1
    if growth > MOST_MIB:
        found.wrong[f"memory grew by {growth:.0f} MiB"] += 1
    return {
        "requests": found.statuses.total(),
        "statuses": dict(sorted(found.statuses.items())),
        "wrong": dict(found.wrong),
        "slowest_seconds": round(found.slowest_seconds, 2),
        "growth_mib": round(growth),
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(words: list[str] | None = None) -> int:
    """Print what was found; 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=5000, help="that are drawn from the documents")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    found = check(options.requests, start=options.seed)
    print(json.dumps(found))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
