"""The dashboard: for administrators alone, true numbers, accessible, acknowledging only from itself."""

from __future__ import annotations

import re
import time
from contextlib import nullcontext

import pytest
import requests
from servers import postgres
from services import make_service
from sqlalchemy import select

from dptrain.report.dashboard import as_html
from dptrain.serving.dashboard import acknowledge, dashboard, token_of
from dptrain.serving.ledger import QueryBudget
from dptrain.serving.tables import ALARMS

pytestmark = pytest.mark.e2e


def with_alarm(service) -> None:
    with service.store.writing() as connection:
        connection.execute(
            ALARMS.insert().values(
                at=time.time(), scope="key", name="<b>x</b>", model=service.model.digest, queries=25,
                score=0.004, reason="distances deviates",
            )
        )  # fmt: skip


def test_only_administrators_see_it_and_a_browser_may_ask_for_the_key(website):
    with website({"budget": QueryBudget()}) as site:
        admin = site.service.keys.make(tenant="ops", scopes=["admin"], days=None)
        with_alarm(site.service)
        assert site.get("/admin").status_code == 403
        refused = site.get("/admin", key="")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
        shown = requests.get(f"{site.url}/admin", auth=("me", admin), timeout=20)
        assert shown.status_code == 200
        assert "form-action 'self'" in shown.headers["content-security-policy"]
        assert "&lt;b&gt;x&lt;/b&gt;" in shown.text
        assert "<b>x</b>" not in shown.text
        assert "<script" not in shown.text
        assert admin not in shown.text
        assert "ward" in shown.text

        def acknowledge(**form: str) -> int:
            return requests.post(
                f"{site.url}/admin/acknowledge",
                data=form,
                auth=("me", admin),
                timeout=20,
                allow_redirects=False,
            ).status_code

        (token,) = set(re.findall(r'name="token" value="(\w+)"', shown.text))
        assert acknowledge(id="1", token="0" * 64) == 403
        assert acknowledge(id="1") == 403
        assert acknowledge(id="x", token=token) == 422
        (alarm,) = site.service.store.rows(select(ALARMS))
        assert alarm.acknowledged is None
        assert acknowledge(id="1", token=token) == 303
        (alarm,) = site.service.store.rows(select(ALARMS))
        assert alarm.acknowledged is not None
        assert "Acknowledge<" not in requests.get(f"{site.url}/admin", auth=("me", admin), timeout=20).text


def test_the_page_is_one_document_with_named_tables(tmp_path):
    service = make_service(tmp_path, {"budget": QueryBudget()})
    with_alarm(service)
    page = as_html(dashboard(service, "t"))
    service.close()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'labelledby="([^"]+)"', page)) <= set(ids)
    assert page.count("<h1") == 1
    assert page.count("<table") == page.count("<caption") == 1
    assert 'lang="en"' in page


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_an_alarm_that_cannot_be_is_an_unknown_one(tmp_path, database):
    with postgres() if database == "postgresql" else nullcontext() as url:
        service = make_service(tmp_path, url=url)
        with_alarm(service)
        acknowledge(service, 10**15 - 1)
        (alarm,) = service.store.rows(select(ALARMS))
        assert alarm.acknowledged is None
        service.close()


def test_tokens_belong_to_one_key_and_one_server():
    assert len({token_of(b"a", "x"), token_of(b"a", "y"), token_of(b"b", "x")}) == 3
