"""Numbers of records in words: all of them for their owner, those that are public for others."""

import re
from dataclasses import replace

from dptrain.contracts import Counts, Scaled
from dptrain.report import counts

OF_CUSTOMERS = Counts(
    unit="customer", files=3000, trained_on=1446, units=721, holdout=416, test=411,
    set_aside={"probes": 712, "slots": 15},
)  # fmt: skip


def test_every_record_is_counted_for_its_owner() -> None:
    assert counts.row(OF_CUSTOMERS) == (
        "in the files: 3,000; trained on: 1,446 of 721 customers; held out: 416; to test on: 411; "
        "set aside for attacks: 727 (712 probes, 15 candidates)"
    )


def test_what_is_published_holds_no_secret_number() -> None:
    """Of groups their number, if that is public; how many records they have is theirs."""
    public = OF_CUSTOMERS.published(units_public=True, set_aside={"probes": 700})
    assert counts.row(public) == (
        "in the files: not stated; trained on: 721 customers; held out: not stated; to test on: not stated; "
        "set aside for attacks: about 700 (700 probes)"
    )
    of_records = replace(OF_CUSTOMERS, unit="record", units=1446)
    for each in (OF_CUSTOMERS, of_records):
        assert not re.search(r"\d", counts.row(each.published(units_public=False, set_aside={})))
    assert counts.row(of_records.published(units_public=True, set_aside={})) == (
        "in the files: not stated; trained on: 1,446; held out: 416; to test on: 411"
    )
    assert counts.row(None) == "not stated"


def test_what_was_made_smaller_says_what_it_costs() -> None:
    slots = Scaled(key="evidence.slots", asked=24, used=6, limits=(0.5407, 0.8576))
    canaries = Scaled(key="evidence.canaries", asked=1000, used=32, limits=None)
    assert list(counts.scaled([slots, canaries])) == [
        "evidence.slots is 6 instead of 24, as many as there is room for: with so many, 54.1 % can be "
        "certified at most, and 85.8 % with as many as were asked for.",
        "evidence.canaries is 32 instead of 1,000, as many as there is room for.",
    ]
