"""`task=serve`: says where a model answers, and answers until the process is ended."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dptrain.config import Config, parse
from dptrain.contracts import ConfigError
from dptrain.report.console import Console
from dptrain.runs.folder import Order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dptrain.serving.service import Service

VARIABLE = "DPTRAIN_SERVE"  # of the environment: what workers are to serve, as JSON without secrets
EXTRA = "task=serve needs the extra `serve` ({missing} is missing); install dptrain[serve]"


def serve(config: Config, order: Order, console: Console) -> None:
    """Answer requests until the process is ended."""
    service, make_app = prepared(config, order)
    from dptrain.serving import server

    listening = server.bound(config.serve.host, config.serve.port)
    console.note("serving", f"{service.model.title} at {server.url_of(listening)}")
    console.note("", f"guards: {', '.join(service.guards) or 'none'}; output: {service.model.output}")
    if service.keys is not None and not service.keys.all():
        console.note("", "no key yet: python -m dptrain.cli.keys make --tenant NAME")
    if config.serve.workers == 1:
        try:
            server.run(make_app(service), listening)
        finally:
            service.close()
        return
    service.close()  # each worker has its own
    os.environ[VARIABLE] = json.dumps(asdict(order))
    server.run_workers("dptrain.cli.serve:worker", listening, config.serve.workers)


def worker() -> Any:
    """The application of one worker among several."""
    values: dict[str, Any] = json.loads(os.environ[VARIABLE])
    order = Order(**{**values, "overrides": tuple(values["overrides"]), "drawn": ()})
    service, make_app = prepared(parse(order.config), order)
    return make_app(service)


def prepared(config: Config, order: Order) -> tuple[Service, Any]:
    """The service of an order, and what makes an application of it; raises ConfigError without the extra."""
    try:
        from dptrain.pipeline.serve import make_service
        from dptrain.serving.app import make_app
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] in ("dptrain", "torch"):
            raise
        raise ConfigError(EXTRA.format(missing=error.name)) from None
    return make_service(config, order.overrides), make_app


@contextmanager
def serving(config: Config, order: Order) -> Iterator[str]:
    """A model that answers within the context, from a thread of this process; its URL."""
    service, make_app = prepared(config, order)
    from dptrain.serving import server

    try:
        with server.running(make_app(service), config.serve.host, config.serve.port) as url:
            yield url
    finally:
        service.close()
