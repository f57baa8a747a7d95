"""Reads the body of a request: bounded in bytes and in time, and parsed only then."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import ClientDisconnect, Request

from dptrain.serving.guard import Refused


def announced(request: Request, most_bytes: int) -> int:
    """How large a body may be that is still to come: as large as is declared, or as may be."""
    declared = request.headers.get("content-length", "")
    return min(int(declared[:20]), most_bytes) if declared.isdecimal() else most_bytes


async def read_body(request: Request, *, most_bytes: int, seconds: float) -> bytes:
    """The body; raises Refused where it is too large (413), too slow (408), or breaks off (400).

    What is declared too large is not read at all, and no more than `most_bytes` and one chunk is ever held.
    """
    declared = request.headers.get("content-length", "")
    too_large = Refused(413, "size", f"The body is larger than {most_bytes} bytes; ask in smaller batches.")
    if declared.isdecimal() and int(declared[:20]) > most_bytes:
        raise too_large
    held = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                held += chunk
                if len(held) > most_bytes:
                    raise too_large
    except TimeoutError:
        raise Refused(
            408, "slow", f"The body did not arrive within {seconds:g} seconds; send it faster."
        ) from None
    except ClientDisconnect:
        raise Refused(400, "broken", "The connection broke off before the body was whole.") from None
    return bytes(held)


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object in a body; raises Refused (400) where it is none, or holds no numbers of JSON."""
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError:
        raise Refused(400, "json", "The body is not UTF-8; send JSON in UTF-8.") from None
    except RecursionError:
        raise Refused(400, "json", "The body nests too deeply; send flat arrays of records.") from None
    except ValueError as error:
        said = (
            "holds NaN or Infinity, which JSON does not have"
            if error.args == (_NOT_FINITE,)
            else "is no JSON"
        )
        raise Refused(400, "json", f"The body {said}; send one JSON object.") from None
    if not isinstance(found, dict):
        raise Refused(400, "json", 'The body is no JSON object; send one such as {"inputs": [...]}.')
    return found


_NOT_FINITE = "not finite"


def _no_number(_: str) -> Any:
    raise ValueError(_NOT_FINITE)
