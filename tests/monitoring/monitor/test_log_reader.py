"""Each row of the log is read once, however segments interleave, arrive late, are corrupted or repaired."""

import random
from pathlib import Path

import pytest

from monitoring.monitor.log_reader import Batch, Cursor, cursor_from_json, cursor_to_json, read_new
from serving.prediction import Prediction
from tests.monitoring.homes import NOON, Gateway, write_segment

DAY_S = 86_400.0
START_OF_LOG = Cursor(0, {}, {})


def row(name: str, at: float = NOON) -> Prediction:
    return Prediction(at, "r", name, None, name, None, 3, 1.0, 1, "champion", "a", 0.9, None, bytes(16), bytes(8), 1.0, False)


def read(home: Path, cursor: Cursor, at_most: int = 10**6, late_s: float = DAY_S) -> Batch:
    return read_new(str(home / "predictions"), cursor, at_most=at_most, late_s=late_s)


def ids(batch: Batch) -> list[str]:
    return [name for table in batch.tables for name in table["id"].to_pylist()]


def test_a_log_that_does_not_exist_yet_has_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path, START_OF_LOG) == Batch([], START_OF_LOG, [], None)


def test_nothing_is_read_twice(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, "one")
    gateway.write([row("a"), row("b")])
    first = read(tmp_path, START_OF_LOG)
    gateway.write([row("c")])
    second = read(tmp_path, first.cursor)
    assert (ids(first), ids(second), ids(read(tmp_path, second.cursor))) == (["a", "b"], ["c"], [])


def test_reading_stops_between_segments_and_reports_what_waits(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, "one")
    for name in "abc":
        gateway.write([row(name, NOON + ord(name))])
    first = read(tmp_path, START_OF_LOG, at_most=1)
    assert (ids(first), first.waiting_since) == (["a"], NOON + ord("b"))
    second = read(tmp_path, first.cursor, at_most=2)
    assert (ids(second), second.waiting_since) == (["b", "c"], None)


@pytest.mark.parametrize("seed", range(8))
def test_each_row_once_whatever_the_order_in_which_segments_appear(tmp_path: Path, seed: int) -> None:
    """Four sessions, each in the order of its writer; everything else is random, across midnight too."""
    draw = random.Random(seed)  # noqa: S311 (only to be repeatable)
    wanted, hidden, cursor, read_ids = set(), {}, START_OF_LOG, []
    for name in ("one", "two", "three-4", "five"):
        gateway, at, hidden[name] = Gateway(tmp_path, name), NOON + draw.uniform(0, DAY_S / 2), []
        for number in range(12):
            at += draw.uniform(0, 4000)
            rows = [row(f"{name}-{number}-{i}", at) for i in range(draw.randint(1, 3))]
            wanted |= {new.id for new in rows}
            hidden[name].append(gateway.segment(rows))
    while any(hidden.values()):
        for _ in range(draw.randint(0, 5)):
            left = [segments for segments in hidden.values() if segments]
            if left:
                write_segment(*draw.choice(left).pop(0))
        batch = read(tmp_path, cursor, at_most=draw.randint(1, 6))
        read_ids += ids(batch)
        cursor = cursor_from_json(cursor_to_json(batch.cursor))
    read_ids += ids(read(tmp_path, cursor))
    assert len(read_ids) == len(set(read_ids))
    assert set(read_ids) == wanted


def test_a_corrupted_segment_is_counted_once_and_the_next_ones_are_read(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, "one")
    gateway.write([row("a")])
    corrupted = gateway.write([row("b"), row("c")])
    corrupted.write_bytes(corrupted.read_bytes()[:100])
    gateway.write([row("d")])
    first = read(tmp_path, START_OF_LOG)
    assert ids(first) == ["a", "d"]
    assert first.skipped == [str(corrupted)]
    assert read(tmp_path, first.cursor).skipped == []


def test_a_half_written_segment_is_read_when_it_is_complete(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, "one")
    half = gateway.write([row("a"), row("b")])
    whole = half.read_bytes()
    half.write_bytes(whole[:200])
    first = read(tmp_path, START_OF_LOG)
    gateway.write([row("c")])
    second = read(tmp_path, first.cursor)
    half.write_bytes(whole)
    gateway.write([row("d", NOON + 5)])
    third = read(tmp_path, second.cursor, at_most=1)
    fourth = read(tmp_path, third.cursor)
    assert [ids(batch) for batch in (first, second, third, fourth)] == [[], ["c"], ["a", "b"], ["d"]]
    assert ids(read(tmp_path, fourth.cursor)) == []


def test_a_file_that_is_not_a_segment_is_counted_once(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, "one")
    path = gateway.write([row("a")])
    (path.parent / "notes.txt").write_text("hello")
    first = read(tmp_path, START_OF_LOG)
    assert first.skipped == [str(path.parent / "notes.txt")]
    assert read(tmp_path, first.cursor).skipped == []


def test_a_copy_of_a_segment_under_a_later_name_gives_no_row_twice(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, "one")
    path = gateway.write([row("a")])
    cursor = read(tmp_path, START_OF_LOG).cursor
    write_segment(path.with_name(f"one-{int(NOON * 1000) + 77:013d}.parquet"), path.read_bytes())
    assert ids(read(tmp_path, cursor)) == []


def test_segments_later_than_late_s_are_not_looked_for(tmp_path: Path) -> None:
    Gateway(tmp_path, "one").write([row("a", NOON)])
    cursor = read(tmp_path, START_OF_LOG).cursor
    Gateway(tmp_path, "two").write([row("late", NOON - 3000)])
    Gateway(tmp_path, "three").write([row("too late", NOON - 4000)])
    assert ids(read(tmp_path, cursor, late_s=3600)) == ["late"]


def test_the_cursor_forgets_old_sessions(tmp_path: Path) -> None:
    cursor = START_OF_LOG
    for number in range(10):
        Gateway(tmp_path, f"s{number}").write([row(f"{number}", NOON + 600 * number)])
        cursor = read(tmp_path, cursor, late_s=1000).cursor
    assert set(cursor.sessions) == {"s8", "s9"}
