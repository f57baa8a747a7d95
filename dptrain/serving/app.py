"""The HTTP interface of a service: routes, errors of one sentence, and what an answer may never hold."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dptrain.installed import own_version
from dptrain.report.dashboard import POLICY
from dptrain.serving.admin import add_dashboard
from dptrain.serving.body import announced, read_body
from dptrain.serving.guard import Refused
from dptrain.serving.keys import Caller
from dptrain.serving.openapi import KEYED, SCHEMES, described, page_of, predict_of
from dptrain.serving.server import is_loopback
from dptrain.serving.service import Service

log = logging.getLogger(__name__)

HEADERS = {
    b"cache-control": b"no-store",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
}


class Markdown(PlainTextResponse):
    """A document in Markdown."""

    media_type = "text/markdown"


def make_app(service: Service) -> FastAPI:
    """The application that answers for a service."""

    @asynccontextmanager
    async def tidying(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(service.keep_tidy())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def caller_of(request: Request, scope: str) -> Caller:
        """Who asks; raises Refused where that is nobody with this scope, or a page of another site."""
        if service.keys is None:
            _refuse_foreign(request)
        header = request.headers.get("authorization", "")
        found: Caller = await service.at_the_door(partial(service.authenticate, header, scope))
        return found

    app = FastAPI(
        title=f"dptrain: {service.model.title}",
        version=own_version(),
        description=described(service.model),
        redirect_slashes=False,
        docs_url=None,  # their pages run scripts of others beside the dashboard
        redoc_url=None,
        lifespan=tidying,
    )
    app.state.service = service
    app.add_exception_handler(Refused, partial(_refuse, service))
    app.add_exception_handler(HTTPException, _plain_error)
    app.add_middleware(Shield, service=service)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page_of(app.openapi()), headers={"Content-Security-Policy": POLICY})

    @app.get("/health", summary="Whether the service answers")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post(
        "/v1/predict",
        summary="Predictions for one record or several",
        openapi_extra=predict_of(service.model, service.bounds.records),
    )
    async def predict(request: Request) -> Response:
        bounds = service.bounds
        caller = await caller_of(request, "predict")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        with service.transit.room(caller.key, announced(request, bounds.body_bytes)):
            body = await read_body(request, most_bytes=bounds.body_bytes, seconds=bounds.body_seconds)
            answer, delay = await service.one_at_a_time(partial(service.answer, caller, body, kind))
            del body  # which a delayed answer does not need
        if delay:
            await service.sleep(delay)
        return JSONResponse(answer)

    @app.get("/v1/key", summary="What the key that asks may do, has spent and has left", openapi_extra=KEYED)
    async def key(request: Request) -> Response:
        caller = await caller_of(request, "predict")
        found: dict[str, Any] = {"key": caller.key, "tenant": caller.tenant, "scopes": sorted(caller.scopes)}
        for guard in service.guards.values():
            if state := getattr(guard, "state", None):
                found["budgets"] = await service.one_at_a_time(partial(state, caller))
        if service.model.left is not None:
            found["answers"] = {"left": await service.one_at_a_time(service.left)}
        return JSONResponse(found)

    @app.get("/v1/statement", summary="What is proved of the model")
    async def statement() -> Response:
        return JSONResponse(service.model.statement)

    @app.get("/v1/card", summary="The model card, in Markdown", response_class=Markdown)
    async def card() -> Response:
        return Markdown(service.model.card)

    @app.get("/v1/form", summary="What the model takes, and what its answers are")
    async def form() -> Response:
        return JSONResponse({**service.model.described, "most_records": service.bounds.records})

    @app.get(
        "/metrics",
        summary="Counters for Prometheus; of a key with the scope metrics",
        openapi_extra=KEYED,
        response_class=PlainTextResponse,
    )
    async def metrics(request: Request) -> Response:
        await caller_of(request, "metrics")
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")

    add_dashboard(app, service)
    app.openapi()["components"] = {"securitySchemes": SCHEMES}  # it is made once, and kept
    return app


def _refuse_foreign(request: Request) -> None:
    """Where no key is asked for, refuse what a page of another site sends from this machine's browser."""
    named = [request.headers.get("host", "")]
    if origin := request.headers.get("origin"):
        named.append(origin.partition("://")[2] or origin)
    for each in named:
        try:
            host = urlsplit(f"//{each}").hostname or ""
        except ValueError:
            host = ""
        if not is_loopback(host):
            raise Refused(403, "host", "Without keys only this machine is answered, by its own name.")


async def _refuse(service: Service, _: Request, why: Exception) -> Response:
    """A refusal as an answer."""
    assert isinstance(why, Refused)
    service.metrics.refused(why.reason)
    headers = {} if why.retry_after is None else {"Retry-After": str(math.ceil(why.retry_after))}
    if why.status == 401:
        headers["WWW-Authenticate"] = why.challenge
    return JSONResponse({"detail": why.said}, status_code=why.status, headers=headers)


async def _plain_error(_: Request, error: Exception) -> Response:
    """What the framework itself refuses, such as an unknown path, in one sentence."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": f"{error.detail}."}, status_code=error.status_code, headers=error.headers)


class Shield:
    """Times each request, adds headers, and turns what nobody foresaw into a 500 that tells nothing.

    The log gets the type of such an error and the place in the code: its text may hold what was asked.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *HEADERS.items()]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            log.error("a request failed: %s at %s", type(error).__name__, _place(error))
            if not status:
                await _failed(sending, scope, receive)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._service.metrics.request(route, status, time.perf_counter() - began)


def _place(error: BaseException) -> str:
    """File and line where an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


_Answer = Callable[[Scope, Receive, Send], Awaitable[None]]


async def _failed(send: Send, scope: Scope, receive: Receive) -> None:
    answer: _Answer = JSONResponse(
        {"detail": "The service failed; whoever runs it finds the place in its log."}, status_code=500
    )
    await answer(scope, receive, send)
