"""Disputes exist among protected rows only, are settled with a date, and reopen after a change."""

import sqlalchemy as sa

from monitoring.labels.disputes import Settlement, changed_labels, find_disputes, read_settlements, settle
from monitoring.labels.entries import FeedbackEntry
from monitoring.labels.opinions import collect_opinions
from pipeline.data.records import text_id
from pipeline.params import Params

TEXT = "where is my parcel"
KEY = text_id(TEXT)
PROTECTED = {KEY: "track_order"}


def opinions(params: Params, *given: tuple[str, str]) -> object:
    entries = [FeedbackEntry(n, f"p{n}", label, person, 100.0 + n) for n, (label, person) in enumerate(given, start=1)]
    return collect_opinions(entries, {entry.prediction_id: TEXT for entry in entries}, ["track_order"], params.data)


def settlement(id: int, label: str, verdict: str) -> Settlement:
    return Settlement(id, KEY, label, verdict, "olga", 200.0 + id)


def test_labels_that_contradict_a_protected_row_are_disputes_those_of_most_people_first(params: Params) -> None:
    given = opinions(params, ("lost", "ann"), ("return", "ben"), ("return", "cem"), ("Track Order", "dee"))
    disputes = find_disputes(given, PROTECTED, [])
    assert [(d.label, d.labellers, d.first_at, d.last_at) for d in disputes] == [
        ("return", ("ben", "cem"), 102.0, 103.0),
        ("lost", ("ann",), 101.0, 101.0),
    ]
    assert find_disputes(given, {}, []) == []


def test_a_kept_label_settles_its_dispute_only(params: Params) -> None:
    disputes = find_disputes(opinions(params, ("lost", "ann"), ("return", "ben")), PROTECTED, [settlement(1, "lost", "keep")])
    assert {d.label: d.settlement is None for d in disputes} == {"lost": False, "return": True}


def test_a_change_is_the_label_that_later_disputes_are_about(params: Params) -> None:
    settled = [settlement(1, "return", "keep"), settlement(2, "lost", "change")]
    given = opinions(params, ("lost", "ann"), ("return", "ben"), ("track_order", "cem"))
    disputes = find_disputes(given, PROTECTED, settled)
    assert {(d.protected_label, d.label): d.settlement is None for d in disputes} == {
        ("lost", "return"): True,
        ("lost", "track_order"): True,
    }
    assert changed_labels([*settled, settlement(3, "return", "change")])[KEY].label == "return"


def test_a_settlement_is_stored_with_its_date_and_who_settled_it(state: sa.Engine, params: Params) -> None:
    (dispute,) = find_disputes(opinions(params, ("lost", "ann")), PROTECTED, [])
    with state.begin() as connection:
        settle(connection, dispute, "keep", "olga")
        (stored,) = read_settlements(connection)
    assert stored[:5] == (1, KEY, "lost", "keep", "olga")
    assert stored.settled_at > 1_700_000_000
