"""`task=serve`: says where a model answers, and answers until the process is ended."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dptrain.config import Config
from dptrain.contracts import ConfigError
from dptrain.report.console import Console
from dptrain.runs.folder import Order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dptrain.serving.service import Service

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
    try:
        server.run(make_app(service), listening)
    finally:
        service.close()


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
