"""The labels of a home: found texts, labellers who count, withdrawal and retention, and what triggers a retrain."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
import sqlalchemy as sa

from monitoring.labels.book import NOT_COUNTED, LabelBook, read_book
from monitoring.labels.conflicts import find_conflicts
from monitoring.labels.controls import BatchSources, LabellingTask, issue_controls, make_batch, mix_batch
from monitoring.labels.entries import FeedbackEntry, count_by_labeller, labelled_ids, restore, withdraw
from monitoring.labels.feedback_file import FILE, read_file, write_dated_files, write_file
from monitoring.labels.labellers import ControlAnswers
from monitoring.labels.texts import TEXTS, find_texts, read_texts
from monitoring.monitor.store import add_answers, add_judgements, correct_flags
from monitoring.retrain.gate.verdict import Verdict
from monitoring.retrain.journal import RetrainJob
from monitoring.retrain.new_labels import LabelCount, count_labels_since, count_new_labels, last_learnt_feedback
from monitoring.retrain.run_local import RunLocal, branch
from monitoring.retrain.steps import LocalSteps
from pipeline.data.records import text_id
from pipeline.params import Params
from pipeline.tracking import runs
from serving.key_file import read_key
from serving.prediction_ids import PredictionIds
from state.database import open_state
from state.tables import feedback, labellers, queue_actions
from tests.monitoring.homes import NOON, Gateway
from tests.monitoring.labels.test_agreement import LABELS, logged

CORPUS = {f"a trusted text, number {number}": "track_order" if number % 2 else "return_item" for number in range(40)}


@pytest.fixture
def clone(tmp_path: Path, params: Params) -> Path:
    """Return a working tree with a corpus of 40 rows, and an empty test file."""
    for file in (params.data.source, params.data.test):
        (tmp_path / "clone" / file).parent.mkdir(parents=True, exist_ok=True)
    rows = [f'{{"text": "{text}", "label": "{label}"}}\n' for text, label in CORPUS.items()]
    (tmp_path / "clone" / params.data.source).write_text("".join(rows))
    (tmp_path / "clone" / params.data.test).write_text("text,label\n")
    return tmp_path / "clone"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "live").mkdir()
    return tmp_path / "live"


def label(connection: sa.Connection, id: str, given: str, labeller: str, *, version: int | None = 3, days: float = 0) -> None:
    """Insert feedback as the gateway stores it."""
    at = datetime.fromtimestamp(NOON + 60, UTC) - timedelta(days=days) if days else datetime.now(UTC)
    row = {"prediction_id": id, "label": given, "kind": "label", "labeller": labeller, "version": version, "received_at": at}
    connection.execute(feedback.insert().values(row))


def read(params: Params, home: Path, clone: Path) -> LabelBook:
    return read_book(params, home, clone, None, LABELS)


def log_texts(home: Path, texts: list[str]) -> list[str]:
    """Write predictions of these texts to the log; return their ids."""
    ids = PredictionIds(read_key(home, "prediction")).issue(NOON, 3, len(texts))
    Gateway(home, "one").write(
        [logged(n)._replace(id=id, text=text) for n, (id, text) in enumerate(zip(ids, texts, strict=True))]
    )
    return ids


def test_texts_are_found_in_the_log_by_prediction(params: Params, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, "one")
    for start in (0, 10):
        gateway.write([logged(number) for number in range(start, start + 10)])
    entries = [FeedbackEntry(1, "p3", "track_order", "ann", NOON + 60), FeedbackEntry(2, "p14", "track_order", "ann", NOON + 60)]
    assert find_texts(params, tmp_path, entries) == {"p3": "text 3", "p14": "text 14"}
    assert find_texts(params, tmp_path, [FeedbackEntry(1, "gone", "x", "ann", NOON)]) == {}


def test_an_id_tells_which_segments_to_read(params: Params, home: Path) -> None:
    (id,) = log_texts(home, ["where is it"])
    late = NOON + 80 * 86_400  # received long after the answer was given
    assert find_texts(params, home, [FeedbackEntry(1, id, "track_order", "ann", late)]) == {id: "where is it"}


def test_texts_of_labels_outlive_the_log_and_go_with_their_labels(params: Params, home: Path, clone: Path) -> None:
    (id,) = log_texts(home, ["where is it"])
    with open_state(home) as engine, engine.begin() as connection:
        label(connection, id, "track_order", "ann")
    read(params, home, clone)
    next((home / "predictions").rglob("*.parquet")).unlink()
    book = read(params, home, clone)
    assert [row["text"] for row in book.merge(LABELS, params).rows] == ["where is it"]
    assert (home / TEXTS).stat().st_mode & 0o777 == 0o600
    with open_state(home) as engine, engine.begin() as connection:
        connection.execute(feedback.update().values(received_at=datetime.now(UTC) - timedelta(days=900)))
    assert read(params, home, clone).merge(LABELS, params).rows == []
    assert (home / TEXTS).read_text() == ""


def test_sixty_invented_ids_are_no_labels(state: sa.Engine, params: Params) -> None:
    with state.begin() as connection:
        for number in range(60):
            label(connection, f"{number:024x}-0", "track_order", "mallory", version=None)
        assert count_new_labels(count_labels_since(connection, 0), LABELS, params.retrain) == 0
        add_answers(connection, 3, [(f"{0:024x}-0", "track_order")], params.monitor)  # the log has it
        label(connection, "checked by the gateway", "track_order", "ann")
        assert count_labels_since(connection, 0) == [LabelCount("track_order", 2, 2)]


def test_labels_since_the_last_retrain_are_counted_by_prediction(params: Params, state: sa.Engine) -> None:
    few = params.retrain.model_copy(update={"proposal_people": 2, "proposal_texts": 3})
    with state.begin() as connection:
        for number in range(6):
            for person in ("ann", "ben"):
                label(connection, f"p{number}", "track_order" if number < 2 else "new_one", person)
        assert last_learnt_feedback(connection, "evergreen") == 0
        assert count_new_labels(count_labels_since(connection, 0), LABELS, few) == 6
        assert count_new_labels(count_labels_since(connection, 0), LABELS, params.retrain) == 2
        assert count_labels_since(connection, 10) == [LabelCount("new_one", 1, 2)]


def test_withdrawn_labels_count_nowhere_and_can_be_restored(params: Params, state: sa.Engine) -> None:
    with state.begin() as connection:
        add_answers(connection, 3, [(f"p{number}", "track_order") for number in range(4)], params.monitor)
        label(connection, "p0", "return_item", "mallory")
        label(connection, "p1", "return_item", "mallory")
        label(connection, "p1", "track_order", "ann")
        assert add_judgements(connection, 3) == 2
        assert correct_flags(connection, 3).tolist() == [False, False]
        assert withdraw(connection, "mallory", None) == 2
        assert add_judgements(connection, 3) == 3  # two forgotten, and one made again from ann's label
        assert correct_flags(connection, 3).tolist() == [True]
        assert add_judgements(connection, 3) == 0
        assert count_labels_since(connection, 0) == [LabelCount("track_order", 1, 1)]
        assert count_by_labeller(connection) == {"ann": (1, 0), "mallory": (0, 2)}
        assert restore(connection, "mallory", datetime.now(UTC) + timedelta(days=1)) == 0
        assert restore(connection, "mallory", datetime.now(UTC) - timedelta(days=1)) == 2
        assert add_judgements(connection, 3) == 1
        assert correct_flags(connection, 3).tolist() == [True, False]


def test_the_next_data_set_forgets_a_withdrawn_labeller(params: Params, home: Path, clone: Path) -> None:
    ids = log_texts(home, ["only by mallory", "by both"])
    with open_state(home) as engine, engine.begin() as connection:
        label(connection, ids[0], "track_order", "mallory")
        label(connection, ids[1], "return_item", "mallory")
        label(connection, ids[1], "track_order", "ann")
    before = read(params, home, clone).merge(LABELS, params)
    assert {row["text"]: row["label"] for row in before.rows} == {"only by mallory": "track_order", "by both": "return_item"}
    with open_state(home) as engine, engine.begin() as connection:
        withdraw(connection, "mallory", None)
    after = read(params, home, clone).merge(LABELS, params)
    assert [(row["text"], row["label"], row["labellers"]) for row in after.rows] == [("by both", "track_order", ["ann"])]


def test_a_labeller_who_is_wrong_on_known_texts_does_not_count(params: Params, home: Path, clone: Path) -> None:
    texts = list(CORPUS)[:20]
    ids = log_texts(home, [*texts, "new, by mallory", "new, by ann"])
    with open_state(home) as engine, engine.begin() as connection:
        for number, text in enumerate(texts):
            wrong = {"track_order": "return_item", "return_item": "track_order"}[CORPUS[text]]
            label(connection, ids[number], wrong if number < 12 else CORPUS[text], "mallory")
            label(connection, ids[number], CORPUS[text] if number else wrong, "ann")
        label(connection, ids[20], "track_order", "mallory")
        label(connection, ids[21], "track_order", "ann")
    book = read(params, home, clone)
    assert {name: score.total for name, score in book.scores.items()} == {
        "ann": ControlAnswers(20, 19),
        "mallory": ControlAnswers(20, 8),
    }
    assert book.opinions.skipped == {NOT_COUNTED: 21}
    assert "new, by mallory" not in {row["text"] for row in book.merge(LABELS, params).rows}
    with open_state(home) as engine, engine.begin() as connection:
        counted = sa.select(labellers.c.name, labellers.c.is_counted).order_by(labellers.c.name)
        assert connection.execute(counted).all() == [("ann", True), ("mallory", False)]
        assert sum(count.texts for count in count_labels_since(connection, 0)) == 21  # ann's
        assert {count.people for count in count_labels_since(connection, 0)} == {1}


def test_the_controller_measures_labellers_when_labels_have_changed(
    params: Params, home: Path, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone)
    monkeypatch.setattr(runs, "close_orphans", lambda _home: [])
    reported: list[tuple[int, int]] = []
    run = RunLocal(clone, home, params.retrain)
    steps = LocalSteps(params, home, run, lambda *_, **__: Verdict(True, (), {}), lambda: None, lambda *n: reported.append(n))
    steps.sweep(None)
    ids = log_texts(home, list(CORPUS))
    with open_state(home) as engine, engine.begin() as connection:
        for id in ids:
            label(connection, id, "nonsense", "mallory")
    for _ in range(2):
        steps.sweep(None)
    with open_state(home) as engine, engine.begin() as connection:
        assert count_labels_since(connection, 0) == []
        withdraw(connection, "mallory", None)
    steps.sweep(None)
    assert reported == [(0, 0), (40, 0)]  # mallory's labels dispute nothing, because they do not count


def test_the_controller_deletes_expired_labels_and_their_texts_though_nobody_gives_a_new_one(
    params: Params, home: Path, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone)
    monkeypatch.setattr(runs, "close_orphans", lambda _home: [])
    run = RunLocal(clone, home, params.retrain)
    steps = LocalSteps(params, home, run, lambda *_, **__: Verdict(True, (), {}), lambda: None, lambda *_: None)
    (id,) = log_texts(home, ["new text"])
    with open_state(home) as engine, engine.begin() as connection:
        label(connection, id, "track_order", "ann")
    steps.sweep(None)
    assert read_texts(home / TEXTS) == {id: "new text"}
    expired = datetime.now(UTC) - timedelta(seconds=params.labels.retention_s + 60)
    with open_state(home) as engine, engine.begin() as connection:
        connection.execute(feedback.update().values(received_at=expired))
    steps.sweep(None)
    with open_state(home) as engine, engine.begin() as connection:
        assert labelled_ids(connection) == set()
    assert read_texts(home / TEXTS) == {}


def test_few_answers_on_known_texts_judge_nobody(params: Params, home: Path, clone: Path) -> None:
    texts = list(CORPUS)[:19]
    ids = log_texts(home, texts)
    with open_state(home) as engine, engine.begin() as connection:
        for id in ids:
            label(connection, id, "nonsense", "mallory")
    assert read(params, home, clone).scores["mallory"].is_counted(params.labels)


def test_feedback_on_a_test_row_is_a_dispute_and_never_a_row(params: Params, home: Path, clone: Path) -> None:
    book = read(params, home, clone)
    protected = next(text for text in CORPUS if text_id(text) in book.trusted.protected)
    assert 8 < len(book.trusted.protected) < 25  # test and validation shares of 40
    (id,) = log_texts(home, [protected])
    with open_state(home) as engine, engine.begin() as connection:
        for person in ("ann", "ben", "cem"):
            label(connection, id, "return_item" if CORPUS[protected] == "track_order" else "track_order", person)
    book = read(params, home, clone)
    assert book.merge(LABELS, params).rows == []
    (dispute,) = book.disputes()
    assert (dispute.text, dispute.protected_label, dispute.labellers) == (protected, CORPUS[protected], ("ann", "ben", "cem"))


def test_answers_on_control_texts_score_and_change_nothing_else(params: Params, home: Path, clone: Path) -> None:
    tasks = issue_controls(home, dict.fromkeys(list(CORPUS)[:20], NOON), 3)
    with open_state(home) as engine, engine.begin() as connection:
        for task in tasks:
            label(connection, task.id, "nonsense", "mallory", version=None)
        assert count_labels_since(connection, 0) == []
    book = read(params, home, clone)
    assert book.scores["mallory"].total == ControlAnswers(20, 0)
    assert (book.opinions.texts, book.disputes()) == ({}, [])


def test_a_batch_mixes_unlabelled_answers_with_control_texts(params: Params, home: Path, clone: Path) -> None:
    ids = log_texts(home, [f"new text {number}" for number in range(30)])
    with open_state(home) as engine, engine.begin() as connection:
        label(connection, ids[29], "track_order", "ann")
        labelled = labelled_ids(connection)
    batch = make_batch(params, home, BatchSources(labelled, list(CORPUS), 3), 20, Random(5), NOON + 60)  # noqa: S311
    controls = [task for task in batch if task.text in CORPUS]
    answers = [task for task in batch if task.text not in CORPUS]
    assert (len(controls), len(answers)) == (2, 18)
    assert {task.id for task in answers} < set(ids[:29])
    assert len({task.id for task in batch}) == 20
    key = PredictionIds(read_key(home, "prediction"))
    assert {issued.is_control for task in controls if (issued := key.read(task.id))} == {True}
    assert {task.id[24:28] for task in controls} == {ids[0][24:28]}  # the version, and one text a call


def test_a_batch_without_a_share_of_controls_has_none() -> None:
    answers, controls = [LabellingTask("a", "answer")], [LabellingTask("c", "control")]
    assert mix_batch(answers, controls, 5, 0.0, Random(1)) == answers  # noqa: S311
    assert set(mix_batch(answers, controls, 5, 0.1, Random(1))) == {*answers, *controls}  # noqa: S311


def test_a_branch_name_contains_no_text_of_an_alert() -> None:
    job = RetrainJob(7, 3, "collect", 1, None, 1, None, "../../x; rm -rf ~", "$(id)")
    assert branch(job) == "retrain/7"


def test_rows_name_the_cluster_in_which_their_text_was_labelled(params: Params, home: Path, clone: Path) -> None:
    first, second = log_texts(home, ["where is it", "send it back"])
    with open_state(home) as engine, engine.begin() as connection:
        for id in (first, second):
            label(connection, id, "track_order", "ann")
        for cluster, undone_at in ((4, None), (9, NOON)):
            row = {"text_id": text_id("where is it"), "prediction_id": first, "labeller": "ann", "action": "label"}
            row |= {"label": "track_order", "cluster": cluster, "shown_at": NOON + cluster, "at": NOON, "undone_at": undone_at}
            connection.execute(queue_actions.insert().values(row))
    merged = read(params, home, clone).merge(LABELS, params)
    assert {row["text"]: row["cluster"] for row in merged.rows} == {"where is it": 4, "send it back": None}


def test_conflicts_are_listed_with_the_label_that_counts(params: Params, home: Path, clone: Path) -> None:
    first, second = log_texts(home, ["where is it", "send it back"])
    with open_state(home) as engine, engine.begin() as connection:
        for labeller, given in (("ann", "return_item"), ("ben", "track_order"), ("cem", "track_order")):
            label(connection, first, given, labeller)
        label(connection, second, "return_item", "ann")
    book = read(params, home, clone)
    (conflict,) = find_conflicts(book.opinions, book.merge(LABELS, params).rows)
    assert conflict.text == "where is it" and conflict.counts == "track_order"
    assert conflict.given == {"return_item": ("ann",), "track_order": ("ben", "cem")}


def test_each_day_has_its_file_and_days_without_rows_lose_theirs(tmp_path: Path) -> None:
    def row(text: str, given_at: str | None) -> dict[str, str | None]:
        return {"text": text, "label": "a", "given_at": given_at}

    write_file(tmp_path / FILE, [row("of an earlier release", None)])
    write_file(tmp_path / "mine.jsonl", [row("put there by a person", None)])
    old, new = row("old", "2026-11-01T23:59:59+00:00"), row("new", "2026-11-02T00:00:00+00:00")
    write_dated_files(tmp_path, [old, new])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "feedback-2026-11-01.jsonl", "feedback-2026-11-02.jsonl", "mine.jsonl"
    ]  # fmt: skip
    write_dated_files(tmp_path, [new, row("undated", None)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["feedback-2026-11-02.jsonl", FILE, "mine.jsonl"]
    assert read_file(tmp_path / "feedback-2026-11-02.jsonl") == [new]
