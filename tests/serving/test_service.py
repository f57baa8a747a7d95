"""A service over HTTP: what it answers, what it refuses and how, and what never leaves it."""

from __future__ import annotations

import base64
import io
import json
import logging
import socket
import time
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from PIL import Image
from services import SHAPE, make_service, network, served
from torch import nn

from dptrain.contracts import ConfigError
from dptrain.models.output import LabelsOnly
from dptrain.serving import server
from dptrain.serving.guard import Started
from dptrain.serving.inputs import Reader
from dptrain.serving.ledger import QueryBudget

pytestmark = pytest.mark.e2e


class Limited(nn.Module):
    def forward(self, confidences: torch.Tensor) -> torch.Tensor:
        return LabelsOnly()(confidences)


INPUTS = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_predictions_are_those_of_the_model_bit_for_bit(website):
    with website() as site:
        answered = site.inputs(INPUTS)
    assert answered.status_code == 200
    assert answered.json()["names"] == ["a", "b", "c"]
    with torch.no_grad():
        expected = network()(INPUTS).softmax(-1)
    assert torch.equal(torch.tensor(answered.json()["predictions"]), expected)


def test_the_output_limit_is_kept(website):
    with website(model=served(Limited())) as site:
        rows = torch.tensor(site.inputs(INPUTS).json()["predictions"])
    assert torch.equal(rows.sort(dim=1).values, torch.tensor([[0.0, 0.0, 1.0]]).expand(4, 3))


def test_images_are_read_as_files_and_as_records(website):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    with website() as site:
        by_file = site.ask(file.getvalue(), headers={"Content-Type": "image/png"})
        by_record = site.ask({"records": [{"image": pixels.tolist()}]})
        by_input = site.inputs(torch.from_numpy(pixels / 255).float()[None, None])
        refused = site.ask(b"\x89PNG\r\n\x1a\n broken", headers={"Content-Type": "image/png"})
    assert by_file.json() == by_record.json() == by_input.json()
    assert refused.status_code == 422


def test_documents_are_given_to_anyone_and_counters_to_those_with_the_scope(website):
    with website() as site:
        operator = site.service.keys.make(tenant="ops", scopes=["metrics"], days=None)
        assert site.get("/health", key="").json() == {"status": "ok"}
        assert site.get("/v1/statement", key="").json() == {"status": "unknown"}
        assert site.get("/v1/card", key="").text == "# squares\n"
        assert site.get("/v1/form", key="").json()["inputs"] == {
            "shape": [1, 8, 8], "bounds": [0.0, 1.0], "whole": False,
        }  # fmt: skip
        assert "/v1/predict" in site.get("/openapi.json", key="").json()["paths"]
        site.inputs(INPUTS)
        assert site.get("/metrics").status_code == 403
        counted = site.get("/metrics", key=operator).text
        assert "dptrain_queries_total 4.0" in counted
        assert site.get("/v1/predict", key="").status_code == 405
        assert site.get("/nowhere", key="").json() == {"detail": "Not Found."}


def nested(depth):
    found: list = []
    for _ in range(depth):
        found = [found]
    return found


def file_of(image: Image.Image, kind: str = "png", exif: bytes | None = None) -> str:
    """An image's file, in base64."""
    held = io.BytesIO()
    image.save(held, kind, **({} if exif is None else {"exif": exif}))
    return base64.b64encode(held.getvalue()).decode()


BAD = [
    ({}, 422),
    ([], 400),
    ({"inputs": []}, 422),
    ({"inputs": 3}, 422),
    ({"inputs": [[1]]}, 422),
    ({"inputs": [[[[0.5] * 8] * 7 + [[0.5]]]]}, 422),
    ({"inputs": torch.full((1, *SHAPE), 1.5).tolist()}, 422),
    ({"inputs": torch.full((1, *SHAPE), 1e300, dtype=torch.float64).tolist()}, 422),
    ({"inputs": [[[["x"] * 8] * 8]]}, 422),
    ({"inputs": [[[[None] * 8] * 8]]}, 422),
    ({"inputs": [[[[True] * 8] * 8]]}, 422),
    ({"inputs": [[[[10**400] * 8] * 8]]}, 422),
    ({"inputs": torch.zeros(17, *SHAPE).tolist()}, 413),
    ({"records": [{"age": 3}]}, 422),
    ({"records": [{}]}, 422),
    ({"records": [3]}, 422),
    ({"records": [{"image": {"a": 1}}]}, 422),
    ({"records": [{"image": "not base64"}]}, 422),
    ({"inputs": [1], "records": []}, 422),
    ({"inputs": ["a" * 20000, *[""] * 15]}, 422),  # which NumPy would make an array of as wide cells of
    ({"records": [{"image": [[["a" * 500] * 8] * 8]}]}, 422),
    ({"records": [{"image": nested(300)}]}, 422),
    ({"records": [{"image": [[True] * 8] * 8}]}, 422),
    ({"records": [{"image": file_of(Image.new("1", (4000, 3000)))}]}, 422),  # more pixels than are decoded
    ({"records": [{"image": file_of(Image.new("L", (2000, 1500)))}] * 4}, 422),
    ({"records": [{"image": file_of(Image.new("L", (8, 8)), "eps")}]}, 422),
    ({"records": [{"image": file_of(Image.new("L", (8, 8)), exif=b"II*\0")}]}, 422),
    ({"records": [{"image": file_of(Image.new("L", (8, 8)), exif=b"AAAAAAAA")}]}, 422),
    (b"{", 400),
    (b"\xff\xfe", 400),
    (b"NaN", 400),
    (b'{"inputs": [[[[NaN]]]]}', 400),
    (b'{"inputs": ' + b"[" * 30000 + b"]" * 30000 + b"}", 400),
    (b'{"a":' * 9000 + b"1" + b"}" * 9000, 400),
    (b'{"inputs": ' + b"9" * 5000 + b"}", 400),
    (b" " * 65537, 413),
]


def test_what_is_wrong_is_said_in_one_sentence_and_never_a_5xx(website, caplog):
    with website() as site:
        for body, status in BAD:
            answered = site.ask(body, headers={"Content-Type": "application/json"})
            assert answered.status_code == status, (str(body)[:80], answered.text)
            said = answered.json()
            assert said.keys() == {"detail"}
            assert len(said["detail"]) < 700
            assert "Traceback" not in answered.text
            assert ".py" not in answered.text
            assert "AAAAAAAA" not in answered.text
        assert site.ask(b"x", headers={"Content-Type": "text/plain"}).status_code == 415
        assert site.ask(b"{}", headers={"Content-Type": None}).status_code == 415
    assert not caplog.records


def test_a_body_beyond_the_cap_is_not_read_whatever_is_declared(website):
    with website(body_bytes=1000) as site:
        assert site.ask(b"x" * 1001).status_code == 413
        answered = site.ask(iter([b"x" * 600] * 50))  # of no declared length
        assert answered.status_code == 413


def test_a_slow_body_is_cut_off(website):
    with website(body_seconds=0.2) as site:
        host, port = site.url.removeprefix("http://").split(":")
        head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.key}\r\n"
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall((head + "Content-Length: 100\r\n\r\n{").encode())
            assert b" 408 " in connection.recv(4096).partition(b"\r\n")[0]


def test_nothing_of_a_failure_is_told_but_the_place_in_the_log(website, caplog):
    class Failing(Started):
        def before(self, query):
            raise RuntimeError(f"the input was {query.inputs.flatten()[:2].tolist()}")

    with website() as site, caplog.at_level(logging.INFO):
        site.service.guards = {"failing": Failing()}
        answered = site.inputs(INPUTS)
        site.service.guards = {}
        assert site.inputs(INPUTS).status_code == 200
    assert answered.status_code == 500
    assert answered.json()["detail"].startswith("The service failed")
    written = "".join(record.getMessage() + str(record.exc_info) for record in caplog.records)
    assert "RuntimeError at" in written
    assert str(round(float(INPUTS.flatten()[0]), 4))[:5] not in written
    assert site.key not in written


def test_answers_are_not_cached_and_no_server_is_named(website):
    with website() as site:
        headers = site.inputs(INPUTS).headers
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


def test_too_many_that_wait_are_sent_away(website):
    class Slow(Started):
        def before(self, query):  # noqa: ARG002
            time.sleep(0.4)

    with website(waiting=1) as site:
        site.service.guards = {"slow": Slow()}
        body = json.dumps({"inputs": INPUTS.tolist()}).encode()
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(6) as pool:
            asked = pool.map(lambda _: site.ask(body, headers={"Content-Type": "application/json"}), range(6))
            statuses = [each.status_code for each in asked]
    assert set(statuses) == {200, 503}


def test_a_model_without_a_finite_answer_spends_nothing(website):
    class Broken(nn.Module):
        def forward(self, confidences: torch.Tensor) -> torch.Tensor:
            return confidences / 0.0 - confidences / 0.0

    with website({"budget": QueryBudget(per_key=10)}, model=served(Broken())) as site:
        assert site.inputs(INPUTS).status_code == 422
        assert site.get("/v1/key").json()["budgets"]["key"]["spent"] == 0


def test_who_has_nothing_left_is_refused_before_a_body_is_read(website, monkeypatch):
    with website({"budget": QueryBudget(per_key=4)}) as site:
        assert site.inputs(INPUTS).status_code == 200
        monkeypatch.setattr(Reader, "read", None)  # calling it would fail
        assert site.inputs(INPUTS).status_code == 429


def test_without_keys_pages_of_other_sites_are_not_answered(website):
    with website(keys=False) as site:
        for headers, status in (
            ({}, 200),
            ({"Origin": site.url}, 200),
            ({"Origin": "https://elsewhere.example"}, 403),
            ({"Host": "elsewhere.example"}, 403),
            ({"Origin": "null"}, 403),
        ):
            body = json.dumps({"inputs": INPUTS.tolist()}).encode()
            answered = site.ask(body, key="", headers={"Content-Type": "application/json", **headers})
            assert answered.status_code == status, headers
            for path in ("/v1/key", "/metrics"):
                assert site.session.get(site.url + path, headers=headers).status_code == status, headers


def trickle(connection: socket.socket) -> None:
    for _ in range(200):
        connection.sendall(b"G")
        time.sleep(0.02)


def test_connections_on_which_nothing_is_asked_are_closed(website, monkeypatch):
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.3)
    with website() as site:
        host, port = site.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as idle:
            assert idle.recv(1) == b""
        with (
            socket.create_connection((host, int(port)), timeout=10) as trickling,
            pytest.raises(OSError, match=r"reset|pipe"),
        ):
            trickle(trickling)
        assert site.inputs(INPUTS).status_code == 200


def pipelining(site, requests: int) -> socket.socket:
    """A connection on which so many requests are sent at once, with little room for their answers."""
    host, port = site.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(10)
    connection.connect((host, int(port)))
    connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * requests)
    return connection


def test_connections_whose_answers_nobody_takes_are_closed_and_slow_ones_are_not(website, monkeypatch):
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.1)
    monkeypatch.setattr(server, "TAKEN_SECONDS", 0.5)
    bound, made, servers = server.bound, server.made, []

    def narrow(host: str, port: int) -> socket.socket:
        listening = bound(host, port)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)  # of its connections too
        return listening

    monkeypatch.setattr(server, "bound", narrow)
    monkeypatch.setattr(server, "made", lambda app: servers.append(made(app)) or servers[0])
    with website() as site:
        began, held = time.monotonic(), servers[0].server_state.connections
        with pipelining(site, 400):
            while not held:
                time.sleep(0.001)
            while held:
                assert time.monotonic() - began < 10
                time.sleep(0.02)
        assert time.monotonic() - began > 0.5
        with pipelining(site, 200) as slow:
            began, heads, last = time.monotonic(), 0, b""
            while heads < 200:
                got = slow.recv(8192)
                assert got
                heads += (last + got).count(b"HTTP/1.1 200") - last.count(b"HTTP/1.1 200")
                last = got[-11:]
                time.sleep(0.01)
            assert time.monotonic() - began > 1.0


def test_the_documentation_runs_no_script_and_is_framed_by_nobody(website):
    with website() as site:
        page = site.get("/docs", key="")
    assert "/v1/predict" in page.text
    assert "<script" not in page.text
    assert page.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("header", ["Basic é", "Basic e", "Basic", "Basic ZXhhbXBsZQ==", "Bearer é"])
def test_headers_that_are_no_key_are_refused(website, header):
    with website() as site:
        host, port = site.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            asked = f"GET /admin HTTP/1.1\r\nHost: {host}\r\nAuthorization: {header}\r\n\r\n"
            connection.sendall(asked.encode("latin-1"))
            assert b" 401 " in connection.recv(4096).partition(b"\r\n")[0]


def open_request(site, key: str, announced: int) -> socket.socket:
    """A connection on which a body is announced, and begun."""
    host, port = site.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    head = f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
    connection.sendall((head + f"Content-Length: {announced}\r\n\r\n{{").encode())
    return connection


def status_of(connection: socket.socket) -> int:
    return int(connection.recv(4096).split(b" ")[1])


def test_bodies_under_way_are_bounded_for_a_key_and_in_all(website):
    """Announced bytes count, whether they come or not; and a connection for 64 KiB at least."""
    with website(transit_bytes=8 * 65536, body_seconds=30.0) as site, ExitStack() as held:
        keys = [site.service.keys.make(tenant="t", scopes=["predict"], days=None) for _ in range(4)]

        def begin(key: str, size: int) -> socket.socket:
            return held.enter_context(open_request(site, key, size))

        waiting = [begin(key, size) for key in keys for size in (65536, 2)]
        while site.service.transit.held_bytes < 8 * 65536:
            time.sleep(0.01)
        assert status_of(begin(keys[0], 2)) == 429  # two each are a fourth of all
        busy = begin(site.key, 2)
        assert status_of(busy) == 503
        for each in waiting[:2]:
            each.close()
        while site.service.transit.held_bytes > 6 * 65536:
            time.sleep(0.01)
        assert site.inputs(INPUTS).status_code == 200
        assert site.inputs(INPUTS, key=keys[0]).status_code == 200
    assert site.service.transit.held_bytes == 0


def test_a_bound_that_one_body_reaches_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"serve.transit_bytes=1000 must be 4 times serve.body_bytes=65536"):
        make_service(tmp_path, transit_bytes=1000)
    with pytest.raises(ConfigError, match=r"serve.transit_bytes=16000 .* at least 262144"):
        make_service(tmp_path, body_bytes=4000, transit_bytes=16000)  # no request would have room
