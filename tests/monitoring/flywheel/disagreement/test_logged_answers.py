"""Answers are read from real segments, newest first, and each text counts once."""

from pathlib import Path

import numpy as np

from monitoring.flywheel.disagreement.logged_answers import observations, read_answers
from pipeline.params import Params
from tests.monitoring.flywheel.disagreement.answers import AT, answer, logged, shares, write


def test_answers_are_read_as_the_gateway_wrote_them(params: Params, tmp_path: Path) -> None:
    rows = [
        logged(1, "refund", unit="u", latency_ms=12.5),
        logged(2, "track", role="challenger", version=2),
        logged(1, "track", role="shadow", version=2, latency_ms=40.0)._replace(time=AT + 3),
        logged(4, "refund", version=3),
        logged(5, "cancel", cache_hit=True),
    ]
    write(tmp_path, params, rows)
    read = read_answers(str(tmp_path / "predictions"), 1, 2, since=AT, at_most=10)
    assert [(row.prediction_id, row.unit, row.text, row.cache_hit) for row in read.champion] == [
        ("p1", "u", "text 1", False),
        ("p5", "", "text 5", True),
    ]
    assert read.champion[0].latency_ms == 12.5
    assert np.allclose(read.champion[0].answer.probabilities, shares("refund"), atol=1e-3)
    assert [row.prediction_id for row in read.challenger] == ["p2"]
    assert {id: (row.answer.label, row.latency_ms) for id, row in read.shadow.items()} == {"p1": ("track", 40.0)}
    assert not read_answers(str(tmp_path / "predictions"), 1, None, since=AT, at_most=10).challenger


def test_only_the_newest_answers_are_read(params: Params, tmp_path: Path) -> None:
    for session in range(5):
        write(tmp_path, params, [logged(10 * session + n, "refund") for n in range(4)], session=f"s{session}")
    url = str(tmp_path / "predictions")
    newest = read_answers(url, 1, None, since=0, at_most=6).champion
    assert [row.prediction_id for row in newest] == ["p32", "p33", "p40", "p41", "p42", "p43"]
    assert [row.prediction_id for row in read_answers(url, 1, None, since=AT + 42, at_most=6).champion] == ["p42", "p43"]
    assert read_answers(str(tmp_path / "none"), 1, 2, since=0, at_most=6) == ([], [], {})


def test_damaged_segments_are_left_out(params: Params, tmp_path: Path) -> None:
    write(tmp_path, params, [logged(1, "refund")], session="a")
    write(tmp_path, params, [logged(2, "refund")], session="b")
    (segment,) = (tmp_path / "predictions").rglob("b-*.parquet")
    segment.write_bytes(segment.read_bytes()[:200])
    assert [row.prediction_id for row in read_answers(str(tmp_path / "predictions"), 1, None, since=0, at_most=9).champion] == [
        "p1"
    ]


def test_where_texts_are_hashed_answers_have_none(params: Params, tmp_path: Path) -> None:
    hashed = params.model_copy(update={"log": params.log.model_copy(update={"text": "hash"})})
    write(tmp_path, hashed, [logged(1, "refund")])
    (row,) = read_answers(str(tmp_path / "predictions"), 1, None, since=0, at_most=9).champion
    assert row.text is None
    assert row.text_hash == answer(1, "refund").text_hash


def test_neither_a_bot_nor_one_customer_is_counted_often() -> None:
    bot = [answer(n, "refund", text="bot", unit=f"u{n}") for n in range(1000)]
    customer = [answer(1000 + n, "refund", unit="one") for n in range(50)]
    nameless = [answer(2000 + n, "refund") for n in range(3)]
    rows = observations([*bot, *customer, *nameless], rows_per_unit=1)
    assert [row.prediction_id for row in rows] == ["p999", "p1049", "p2000", "p2001", "p2002"]
    assert len(observations(customer, rows_per_unit=7)) == 7
