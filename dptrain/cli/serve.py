"""`task=serve`: says where a model answers, and answers until the process is ended."""

from __future__ import annotations

import socket
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dptrain.cli import process
from dptrain.config import Config
from dptrain.pipeline.over_http import extra_needed
from dptrain.report.console import Console
from dptrain.runs.folder import Order
from dptrain.serving.workers import Workers, supervise, working

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dptrain.serving.service import Service

IMPORTS = ("dptrain.pipeline.serve", "dptrain.serving.app", "dptrain.serving.rates")  # of every worker


def serve(config: Config, order: Order, console: Console) -> None:
    """Answer requests until the process is ended."""
    service, make_app = prepared(config, order)
    from dptrain.serving import server

    listening = server.bound(config.serve.host, config.serve.port)
    console.note("serving", f"{service.model.title} at {server.url_of(listening)}")
    console.note("", f"guards: {', '.join(service.guards) or 'none'}; output: {service.model.output}")
    if service.keys is not None and not service.keys.all():
        console.note("", "no key yet: python -m dptrain.cli.keys make --tenant NAME")
    if config.serve.workers > 1:
        service.close()  # it was made to tell what is wrong at once; each worker makes its own
        del service, make_app
        supervise(_workers(config, order, listening))
        return
    try:
        server.run(make_app(service), listening)
    finally:
        service.close()


def prepared(config: Config, order: Order) -> tuple[Service, Any]:
    """The service of an order, and what makes an application of it; raises ConfigError without the extra."""
    with extra_needed("task=serve"):
        from dptrain.pipeline.serve import make_service
        from dptrain.serving.app import make_app
    return make_service(config, order.overrides), make_app


def _workers(config: Config, order: Order, listening: socket.socket) -> Workers:
    work = partial(_answer, config, order.overrides)
    return Workers(work, listening, config.serve.workers, imports=IMPORTS)


def _answer(config: Config, overrides: tuple[str, ...], listening: socket.socket, counters: Path) -> None:
    """The work of one worker: answer until the process is ended."""
    from dptrain.pipeline.serve import make_service
    from dptrain.serving import server
    from dptrain.serving.app import make_app

    process.settle(config.performance.threads, processes=config.serve.workers)
    service = make_service(config, overrides, counters=counters)
    try:
        server.run(make_app(service), listening)
    finally:
        service.close()


@contextmanager
def serving(config: Config, order: Order) -> Iterator[str]:
    """A model that answers within the context, from a thread of this process; its URL."""
    service, make_app = prepared(config, order)
    from dptrain.serving import server

    if config.serve.workers > 1:
        service.close()
        listening = server.bound(config.serve.host, config.serve.port)
        with closing(listening), working(_workers(config, order, listening)):
            yield server.url_of(listening)
        return
    try:
        with server.running(make_app(service), config.serve.host, config.serve.port) as url:
            yield url
    finally:
        service.close()
