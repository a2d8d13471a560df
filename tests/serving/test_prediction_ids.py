"""Ids of predictions: unique, unforgeable, and they tell time and version."""

import pytest

from serving.prediction_ids import IssuedId, PredictionIds, issued_at

KEY = b"k" * 64
NOW = 1_790_000_000.9


def test_an_id_proves_its_time_and_version() -> None:
    ids = PredictionIds(KEY).issue(NOW, 12, 3)
    assert len(set(ids)) == 3
    assert max(map(len, ids)) <= 64
    assert {PredictionIds(KEY).read(id) for id in ids} == {IssuedId(int(NOW), 12, is_control=False)}
    assert {issued_at(id) for id in ids} == {int(NOW)}


def test_a_control_looks_like_an_answer_and_is_read_as_a_control() -> None:
    ids = PredictionIds(KEY)
    answer, control = ids.issue(NOW, 3, 1)[0], ids.issue(NOW, 3, 1, is_control=True)[0]
    assert (len(control), control[:8], control[24:29]) == (len(answer), answer[:8], answer[24:29])
    assert ids.read(control) == IssuedId(int(NOW), 3, is_control=True)


def test_no_two_calls_share_an_id() -> None:
    ids = PredictionIds(KEY)
    assert not set(ids.issue(NOW, 1, 50)) & set(ids.issue(NOW, 1, 50))


def test_another_key_issued_nothing() -> None:
    (id,) = PredictionIds(KEY).issue(NOW, 1, 1)
    assert PredictionIds(b"another key, as long").read(id) is None


@pytest.mark.parametrize("place", range(0, 45, 3))
def test_an_altered_id_is_refused(place: int) -> None:
    (id,) = PredictionIds(KEY).issue(NOW, 1, 1)
    altered = id[:place] + ("1" if id[place] != "1" else "2") + id[place + 1 :]
    assert PredictionIds(KEY).read(altered) is None


@pytest.mark.parametrize("id", ["", "nonsense", f"{7:024x}-0", f"{7:024x}-1-0-{7:016x}", f"{7:024x}-1-0-{7:016x}\n"])
def test_what_was_never_issued_is_refused(id: str) -> None:
    assert PredictionIds(KEY).read(id) is None
