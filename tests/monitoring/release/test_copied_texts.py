"""Copied texts come in order of arrival, each once, whichever answer was logged first."""

from pathlib import Path

from monitoring.release.copied_texts import CopiedTexts
from pipeline.params import load_params
from tests.monitoring.homes import NOON, Gateway
from tests.monitoring.release.copies import answer, answers

SETTINGS = load_params().monitor.model_copy(update={"window_rows": 4, "rows_per_unit": 1})


def reader(home: Path) -> CopiedTexts:
    return CopiedTexts(str(home / "predictions"), champion=1, challenger=2, since=NOON, settings=SETTINGS)


def test_an_empty_log_has_none(tmp_path: Path) -> None:
    assert reader(tmp_path).read() == []


def test_both_answers_of_a_text_are_joined(tmp_path: Path) -> None:
    Gateway(tmp_path, "a").write(answers([("parcel?", "track", "refund"), ("money", "refund", "refund")]))
    first, second = reader(tmp_path).read()
    assert (first.prediction_id, first.text, first.label, first.other_label) == ("p0", "parcel?", "track", "refund")
    assert first.at == NOON
    assert [first.differs, second.differs] == [True, False]


def test_answers_that_come_in_two_segments_are_joined_when_the_second_comes(tmp_path: Path) -> None:
    gateway, texts = Gateway(tmp_path, "a"), reader(tmp_path)
    gateway.write([answer("a", "slow", "track"), answer("b", "fast", "track"), answer("b", "fast", "refund", "shadow")])
    assert [text.text for text in texts.read()] == ["fast"]
    gateway.write([answer("a", "slow", "refund", "shadow", NOON + 1)])
    assert [text.text for text in texts.read()] == ["fast", "slow"]
    assert [text.text for text in texts.read()] == ["fast", "slow"]


def test_a_text_counts_once_with_its_first_answers(tmp_path: Path) -> None:
    Gateway(tmp_path, "a").write(answers([("parcel?", "track", "refund"), ("parcel?", "track", "track")]))
    assert [text.prediction_id for text in reader(tmp_path).read()] == ["p0"]


def test_other_versions_other_roles_and_what_came_before_the_release_are_left_out(tmp_path: Path) -> None:
    old = [row._replace(time=NOON - 5) for row in answers([("old", "track", "refund")])]
    third = answer("c", "third", "track", "shadow")._replace(version=3)
    own = answer("d", "own", "track")._replace(version=2, role="challenger")
    Gateway(tmp_path, "a").write([*old, answer("c", "third", "track"), third, own, answer("e", "alone", "track")])
    assert reader(tmp_path).read() == []


def test_a_text_that_the_log_does_not_keep_is_still_a_pair(tmp_path: Path) -> None:
    Gateway(tmp_path, "a").write(answers([("secret", "track", "refund")]), text="hash")
    (text,) = reader(tmp_path).read()
    assert text.text is None and text.differs


def test_a_unit_counts_once_in_a_window_of_copied_texts(tmp_path: Path) -> None:
    copied = answers([(f"text {number}", "track", "track") for number in range(8)])
    Gateway(tmp_path, "a").write([row._replace(unit="bot" if row.text < "text 6" else None) for row in copied])
    assert [text.text for text in reader(tmp_path).read()] == ["text 0", "text 4", "text 6", "text 7"]
