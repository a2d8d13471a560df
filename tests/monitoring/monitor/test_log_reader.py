"""Each row of the log once: however segments interleave, come late, are spoilt or mended, and wherever reading stopped."""

import random
from pathlib import Path

import pytest

from monitoring.monitor.log_reader import BEGIN, Batch, Cursor, as_text, from_text, read_on
from serving.prediction_log.segments import Row
from tests.monitoring.homes import NOON, Gateway, appear

DAY_S = 86_400.0


def row(name: str, at: float = NOON) -> Row:
    return Row(at, "r", name, None, name, None, 3, 1.0, 1, "champion", "a", 0.9, None, bytes(16), bytes(8), 1.0, False)


def read(home: Path, cursor: Cursor, at_most: int = 10**6, late_s: float = DAY_S) -> Batch:
    return read_on(str(home / "predictions"), cursor, at_most=at_most, late_s=late_s)


def ids(batch: Batch) -> list[str]:
    return [name for table in batch.tables for name in table["id"].to_pylist()]


def test_a_log_that_is_not_there_yet_has_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path, BEGIN) == Batch([], BEGIN, [], None)


def test_nothing_is_read_twice(tmp_path: Path) -> None:
    one = Gateway(tmp_path, "one")
    one.write([row("a"), row("b")])
    first = read(tmp_path, BEGIN)
    one.write([row("c")])
    second = read(tmp_path, first.cursor)
    assert (ids(first), ids(second), ids(read(tmp_path, second.cursor))) == (["a", "b"], ["c"], [])


def test_reading_stops_between_segments_and_says_what_waits(tmp_path: Path) -> None:
    one = Gateway(tmp_path, "one")
    for name in "abc":
        one.write([row(name, NOON + ord(name))])
    first = read(tmp_path, BEGIN, at_most=1)
    assert (ids(first), first.waiting_since) == (["a"], NOON + ord("b"))
    second = read(tmp_path, first.cursor, at_most=2)
    assert (ids(second), second.waiting_since) == (["b", "c"], None)


@pytest.mark.parametrize("seed", range(8))
def test_each_row_once_whatever_the_order_in_which_segments_appear(tmp_path: Path, seed: int) -> None:
    """Four sessions; within one the order is kept, as its writer keeps it; everything else is at random, over midnight too."""
    draw = random.Random(seed)  # noqa: S311 (only to be repeatable)
    wanted, hidden, cursor, found = set(), {}, BEGIN, []
    for name in ("one", "two", "three-4", "five"):
        gateway, at, hidden[name] = Gateway(tmp_path, name), NOON + draw.uniform(0, DAY_S / 2), []
        for number in range(12):
            at += draw.uniform(0, 4000)
            made = [row(f"{name}-{number}-{i}", at) for i in range(draw.randint(1, 3))]
            wanted |= {own.id for own in made}
            hidden[name].append(gateway.segment(made))
    while any(hidden.values()):
        for _ in range(draw.randint(0, 5)):
            left = [own for own in hidden.values() if own]
            if left:
                appear(*draw.choice(left).pop(0))
        batch = read(tmp_path, cursor, at_most=draw.randint(1, 6))
        found += ids(batch)
        cursor = from_text(as_text(batch.cursor))
    found += ids(read(tmp_path, cursor))
    assert len(found) == len(set(found))
    assert set(found) == wanted


def test_a_spoilt_segment_is_counted_once_and_what_follows_is_read(tmp_path: Path) -> None:
    one = Gateway(tmp_path, "one")
    one.write([row("a")])
    spoilt = one.write([row("b"), row("c")])
    spoilt.write_bytes(spoilt.read_bytes()[:100])
    one.write([row("d")])
    first = read(tmp_path, BEGIN)
    assert ids(first) == ["a", "d"]
    assert first.skipped == [str(spoilt)]
    assert read(tmp_path, first.cursor).skipped == []


def test_a_half_written_segment_is_read_when_it_is_whole(tmp_path: Path) -> None:
    one = Gateway(tmp_path, "one")
    half = one.write([row("a"), row("b")])
    whole = half.read_bytes()
    half.write_bytes(whole[:200])
    first = read(tmp_path, BEGIN)
    one.write([row("c")])
    second = read(tmp_path, first.cursor)
    half.write_bytes(whole)
    one.write([row("d", NOON + 5)])
    third = read(tmp_path, second.cursor, at_most=1)
    fourth = read(tmp_path, third.cursor)
    assert [ids(own) for own in (first, second, third, fourth)] == [[], ["c"], ["a", "b"], ["d"]]
    assert ids(read(tmp_path, fourth.cursor)) == []


def test_a_file_that_is_no_segment_is_counted_once(tmp_path: Path) -> None:
    one = Gateway(tmp_path, "one")
    path = one.write([row("a")])
    (path.parent / "notes.txt").write_text("hello")
    first = read(tmp_path, BEGIN)
    assert first.skipped == [str(path.parent / "notes.txt")]
    assert read(tmp_path, first.cursor).skipped == []


def test_a_copy_of_a_segment_under_a_later_name_gives_no_row_again(tmp_path: Path) -> None:
    one = Gateway(tmp_path, "one")
    path = one.write([row("a")])
    cursor = read(tmp_path, BEGIN).cursor
    appear(path.with_name(f"one-{int(NOON * 1000) + 77:013d}.parquet"), path.read_bytes())
    assert ids(read(tmp_path, cursor)) == []


def test_what_appears_later_than_is_promised_is_not_looked_for(tmp_path: Path) -> None:
    Gateway(tmp_path, "one").write([row("a", NOON)])
    cursor = read(tmp_path, BEGIN).cursor
    Gateway(tmp_path, "two").write([row("late", NOON - 3000)])
    Gateway(tmp_path, "three").write([row("too late", NOON - 4000)])
    assert ids(read(tmp_path, cursor, late_s=3600)) == ["late"]


def test_the_cursor_does_not_grow_with_sessions_that_have_gone(tmp_path: Path) -> None:
    cursor = BEGIN
    for number in range(10):
        Gateway(tmp_path, f"s{number}").write([row(f"{number}", NOON + 600 * number)])
        cursor = read(tmp_path, cursor, late_s=1000).cursor
    assert set(cursor.sessions) == {"s8", "s9"}
