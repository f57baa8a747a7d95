"""Listens for requests: in a thread of this process, or as a program."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import uvicorn
from fastapi import FastAPI
from PIL import Image
from uvicorn.protocols.http.h11_impl import H11Protocol

from dptrain.contracts import ConfigError
from dptrain.serving.inputs import MOST_PIXELS

HEADERS_BYTES = 16384
MOST_CONNECTIONS = 1024
START_SECONDS = 30.0
HEADER_SECONDS = 10.0  # that a connection may be open without a whole request
TAKEN_SECONDS = 20.0  # within which a client takes some of what waits for it; systems pass it on in pieces


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host of this name."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bound(host: str, port: int) -> socket.socket:
    """A socket that is bound, to a port of the system's choice where 0 is asked for; raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, for asyncio turns Nagle off (40 ms an answer) only where the protocol is.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"serve.host={host} and serve.port={port}: nothing can listen there ({error.strerror}); choose "
            "another port, or 0 for any that is free"
        ) from None
    return listening


def url_of(listening: socket.socket) -> str:
    """Where a bound socket is reached."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Timed(H11Protocol):
    """Closes connections on which no request is under way for so many seconds, whatever trickles in.

    Those of clients too who ask and take nothing of the answers, which would wait here for ever.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle = self.loop.time()
        self._watch = self.loop.call_later(HEADER_SECONDS, self._look)

    def on_response_complete(self) -> None:
        self._idle = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._untaken = self.loop.time(), self.transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._idle = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        if self.flow.write_paused:
            self._look_at_answers()
            return
        answering = self.cycle is not None and not self.cycle.response_complete
        left = HEADER_SECONDS - (self.loop.time() - self._idle)
        if not answering and left <= 0.0:
            self.transport.abort()
            return
        self._watch = self.loop.call_later(HEADER_SECONDS if answering else left + 0.01, self._look)

    def _look_at_answers(self) -> None:
        """Close the connection where as much of the answers waits as it did so many seconds ago."""
        now, waiting = self.loop.time(), self.transport.get_write_buffer_size()
        since, before = self._untaken
        if waiting < before:
            self._untaken = now, waiting
        elif now - since >= TAKEN_SECONDS:
            self.transport.abort()
            return
        self._watch = self.loop.call_later(HEADER_SECONDS, self._look)


# How uvicorn serves: headers and connections bounded, no access log, whose lines would hold queries.
SETTINGS: dict[str, Any] = {
    "log_level": "warning",
    "access_log": False,
    "server_header": False,
    "limit_concurrency": MOST_CONNECTIONS,
    "h11_max_incomplete_event_size": HEADERS_BYTES,
    "http": Timed,
    "ws": "none",
    "lifespan": "on",
    "timeout_graceful_shutdown": 5,
}


def made(app: FastAPI) -> uvicorn.Server:
    """A server of an application, which bounds the images that this process decodes, too."""
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    return uvicorn.Server(uvicorn.Config(app, **SETTINGS))


@contextmanager
def running(app: FastAPI, host: str, port: int) -> Iterator[str]:
    """An application that answers within the context, from a thread of this process; its URL."""
    listening = bound(host, port)
    server = made(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        waited = time.monotonic()
        while not server.started and thread.is_alive() and time.monotonic() - waited < START_SECONDS:
            time.sleep(0.005)
        if not server.started:
            raise ConfigError(f"serve.host={host}: the service did not start; its log says why")
        yield url_of(listening)
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
        listening.close()


def run(app: FastAPI, listening: socket.socket) -> None:
    """Answer requests until a signal ends the process."""
    made(app).run(sockets=[listening])
