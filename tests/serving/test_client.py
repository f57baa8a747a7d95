"""A client of a service: keys that are held back, its pace, and how much it asks at once."""

from __future__ import annotations

import socket

import pytest
import torch
from services import SHAPE

from dptrain.contracts import OutOfQueries
from dptrain.serving.client import Client, HeldBack
from dptrain.serving.guard import Query, Refused, Started
from dptrain.serving.ledger import QueryBudget
from dptrain.serving.server import bound

INPUTS = torch.zeros(20, *SHAPE)


class Holding(Started):
    """Refuses a key once so many queries of it were answered."""

    def __init__(self, most: int) -> None:
        self.most, self.answered = most, dict[str, int]()

    def before(self, query: Query) -> None:
        if self.answered.get(query.caller.key, 0) >= self.most:
            raise Refused(403, "suspicious", "This key is held back.")

    def after(self, query, answers, connection):  # noqa: ARG002
        self.answered[query.caller.key] = self.answered.get(query.caller.key, 0) + query.count
        return answers


def test_keys_take_turns_at_the_pace_that_is_asked_for_and_no_time_passes(website):
    rests: list[float] = []
    with website({"budget": QueryBudget()}) as site:
        keys = [site.key, site.service.keys.make(tenant="ward", scopes=["predict"], days=None)]
        client = Client(url=site.url, keys=keys, pause_seconds=1800.0, rest=rests.append, at_once=6)
        assert client.predictions(INPUTS).shape == (20, 3)
        spent = [site.get("/v1/key", key).json()["budgets"]["key"]["spent"] for key in keys]
    assert rests == [1800.0] * 3  # four requests
    assert client.waited_seconds == 5400.0
    assert (client.asked, client.answered) == (20, 20)
    assert sorted(spent) == [8, 12]


def test_a_key_that_is_held_back_is_left_out_and_the_others_go_on(website):
    with website() as site:
        site.service.guards = {"holding": Holding(4)}
        keys = [site.key, site.service.keys.make(tenant="ward", scopes=["predict"], days=None)]
        client = Client(url=site.url, keys=keys, at_once=4)
        with pytest.raises(OutOfQueries, match="each key is held back after 8 queries"):
            client.predictions(INPUTS)
        assert (client.asked, client.answered, client.held) == (12, 8, set(keys))
        with pytest.raises(HeldBack, match=r"Give release\.key_env"):
            Client(url=site.url, keys=["dpt_wrong"]).predictions(INPUTS)


def test_answers_do_not_wait_for_acknowledgements():
    """asyncio turns Nagle's algorithm off for sockets that say they are TCP, and for no others."""
    with bound("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP
