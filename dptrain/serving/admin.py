"""Routes of the dashboard: for keys with the scope admin, in a browser by its own dialogue for passwords."""

from __future__ import annotations

import base64
import hmac
from functools import partial
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from dptrain.report.dashboard import POLICY, as_html
from dptrain.serving.body import read_body
from dptrain.serving.dashboard import acknowledge, dashboard, token_of
from dptrain.serving.guard import Refused
from dptrain.serving.keys import Caller
from dptrain.serving.service import Service

FORM_BYTES = 1000


def add_dashboard(app: FastAPI, service: Service) -> None:
    """Add /admin to an application."""

    async def admin(request: Request) -> Caller:
        """Whoever asks, with the scope admin; any user name, and the key for a password."""
        header = _bearer(request.headers.get("authorization", ""))
        try:
            found: Caller = await service.at_the_door(partial(service.authenticate, header, "admin"))
        except Refused as why:
            why.challenge = 'Basic realm="the key is the password", charset="UTF-8"'
            raise
        return found

    @app.get("/admin", include_in_schema=False)
    async def page(request: Request) -> Response:
        caller = await admin(request)
        token = token_of(service.secret, caller.key)
        made = await service.one_at_a_time(partial(dashboard, service, token))
        return HTMLResponse(as_html(made), headers={"Content-Security-Policy": POLICY})

    @app.post("/admin/acknowledge", include_in_schema=False)
    async def seen(request: Request) -> Response:
        caller = await admin(request)
        body = await read_body(request, most_bytes=FORM_BYTES, seconds=service.bounds.body_seconds)
        given = {name: values[0] for name, values in parse_qs(body.decode("latin-1")).items()}
        if not hmac.compare_digest(
            given.get("token", "").encode(), token_of(service.secret, caller.key).encode()
        ):
            raise Refused(
                403, "form", "This form did not come from the dashboard; open /admin, and try again."
            )
        if not given.get("id", "").isdecimal() or len(given["id"]) > 15:
            raise Refused(422, "form", "The form names no alarm.")
        await service.one_at_a_time(partial(acknowledge, service, int(given["id"])))
        return RedirectResponse("../admin", status_code=303)


def _bearer(header: str) -> str:
    """A header with Basic credentials as one with the password alone."""
    word, _, text = header.partition(" ")
    if word.lower() != "basic":
        return header
    try:
        decoded = base64.b64decode(text, validate=True).decode("utf-8")
    except ValueError:  # binascii.Error and UnicodeDecodeError are of them
        return ""
    return f"Bearer {decoded.partition(':')[2]}"
