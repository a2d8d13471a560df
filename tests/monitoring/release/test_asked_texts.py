"""A release asks for the texts on which its versions differ, in order, one label each, and not for more than it needs."""

from datetime import UTC, datetime

import sqlalchemy as sa

from monitoring.release.asked_texts import ReleaseLabels, read_release_labels, waiting_texts
from monitoring.release.copied_texts import CopiedText
from state.tables import feedback, labellers, queue_actions

SINCE = 1_000_000.0


def text_of(id: str, label: str = "refund", *, text: str | None = "a text") -> CopiedText:
    return CopiedText(id, SINCE, text, id, "track", label)


def waiting(texts: list[CopiedText], said: ReleaseLabels, limit: int = 10) -> list[str]:
    return [text.prediction_id for text in waiting_texts(texts, said, limit)]


NOTHING_SAID = ReleaseLabels({}, {}, frozenset())


def test_texts_with_one_answer_and_texts_that_nobody_can_read_are_not_asked() -> None:
    assert waiting([text_of("a"), text_of("b", "track"), text_of("c", text=None), text_of("d")], NOTHING_SAID) == ["a", "d"]


def test_a_label_closes_its_text_and_counts_against_the_budget() -> None:
    texts = [text_of(name) for name in "abcd"]
    assert waiting(texts, ReleaseLabels({"a": "track"}, {}, frozenset()), limit=3) == ["b", "c"]
    assert waiting(texts, ReleaseLabels(dict.fromkeys("abc", "track"), {}, frozenset()), limit=3) == []


def test_a_skipped_text_is_kept_for_others_until_everybody_or_two_have_skipped_it() -> None:
    def after(*skipped: str, people: str) -> list[str]:
        return waiting([text_of("a"), text_of("b")], ReleaseLabels({}, {"a": frozenset(skipped)}, frozenset(people)), limit=1)

    assert after("x", people="xy") == ["a"]
    assert after("x", people="x") == ["b"]
    assert after("x", "y", people="xyz") == ["b"]


def test_what_people_said_since_the_release_began_is_read(state: sa.Engine) -> None:
    def label(id: str, name: str, by: str, at: float = SINCE + 1, **more: object) -> dict[str, object]:
        row = {
            "prediction_id": id,
            "label": name,
            "kind": "label",
            "labeller": by,
            "received_at": datetime.fromtimestamp(at, UTC),
        }
        return row | {"withdrawn_at": None, **more}

    def action(id: str, by: str, kind: str, at: float = SINCE + 1, undone_at: float | None = None) -> dict[str, object]:
        row = {"text_id": "t", "prediction_id": id, "labeller": by, "action": kind, "shown_at": at, "at": at}
        return row | {"undone_at": undone_at}

    with state.begin() as connection:
        measured = datetime.fromtimestamp(SINCE, UTC)
        not_counted = {"name": "eve", "controls": 9, "controls_right": 0, "is_counted": False, "measured_at": measured}
        connection.execute(labellers.insert(), not_counted)
        rows = [
            label("a", "track", "ana"),
            label("a", "refund", "bob"),
            label("b", "track", "eve"),
            label("c", "track", "ana", withdrawn_at=datetime.fromtimestamp(SINCE + 2, UTC)),
            label("d", "track", "ana", SINCE - 5),
        ]
        connection.execute(feedback.insert(), rows)
        actions = [
            action("b", "bob", "skip"),
            action("c", "bob", "skip", undone_at=SINCE + 2),
            action("z", "old", "label", SINCE - 100_000),
            action("z", "ana", "label", SINCE - 100),
        ]
        connection.execute(queue_actions.insert(), actions)
    with state.connect() as connection:
        said = read_release_labels(connection, SINCE)
    assert said == ReleaseLabels({"a": "track"}, {"b": frozenset({"bob"}), "z": frozenset({"ana"})}, frozenset({"ana", "bob"}))
