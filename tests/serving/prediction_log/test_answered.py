"""Many predictions are found at once in the log: by id, without copies, and only as far back as the oldest of them."""

from pathlib import Path

import pytest

from serving.prediction_log import answered
from serving.prediction_log.answered import FoundAnswer, find_answers
from tests.monitoring.homes import Gateway
from tests.monitoring.release.ab.ab_story import BEGAN
from tests.monitoring.release.ab.ab_story import answered as answer


def test_answers_are_found_in_all_segments_and_others_are_missing(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, "gateway")
    rows = [answer(1, unit="ana", label="refund"), answer(2, unit=None, role="challenger", label="track"), answer(1)]
    gateway.write(rows[:1])
    gateway.write(rows[1:])
    (unlogged,) = (answer(1).id,)
    assert find_answers(str(tmp_path / "predictions"), [rows[0].id, rows[1].id, unlogged, "no id"]) == {
        rows[0].id: FoundAnswer("ana", "c" * 24, 1, "refund"),
        rows[1].id: FoundAnswer(None, "c" * 24, 2, "track"),
    }


def test_a_copy_for_the_challenger_has_the_id_of_its_original_and_is_left_out(tmp_path: Path) -> None:
    original = answer(1, label="refund")
    copy = answer(2, role="shadow", label="track", id=original.id)
    gateway = Gateway(tmp_path, "gateway")
    gateway.write([original, copy])
    gateway.write([copy._replace(time=copy.time + 60)])
    assert find_answers(str(tmp_path / "predictions"), [original.id])[original.id].label == "refund"


def test_damaged_segments_are_skipped_and_an_empty_log_has_nothing(tmp_path: Path) -> None:
    row = answer(1)
    assert find_answers(str(tmp_path / "predictions"), [row.id]) == {}
    gateway = Gateway(tmp_path, "gateway")
    gateway.write([row])
    gateway.write([answer(1)]).write_bytes(b"PAR1 damaged")
    assert find_answers(str(tmp_path / "predictions"), [row.id]).keys() == {row.id}
    assert find_answers(str(tmp_path / "predictions"), []) == {}


def test_segments_from_before_the_oldest_id_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(tmp_path, "gateway")
    old, new = answer(1, at=BEGAN), answer(1, at=BEGAN + 3600)
    gateway.write([old])
    gateway.write([new])
    read: list[float] = []

    def newest(url: str, *, since: float, on_skipped: object) -> object:
        read.append(since)
        return segments(url, since=since, on_skipped=on_skipped)

    segments = answered.newest_segment_files
    monkeypatch.setattr(answered, "newest_segment_files", newest)
    assert find_answers(str(tmp_path / "predictions"), [new.id]).keys() == {new.id}
    assert read == [int(BEGAN) + 3600]
