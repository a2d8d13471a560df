"""What speaks against a candidate: labels that vanish or are new, with the answers they cost, and the gate's last verdict."""

from pathlib import Path

import pytest

from monitoring.retrain.gate.promotion import Promotion, examine_promotion
from monitoring.retrain.gate.recorded_verdicts import find_verdict, record_verdict
from monitoring.retrain.gate.verdict import Verdict
from pipeline.params import Params
from serving.prediction import Prediction
from serving.release.release_table import Release
from state.database import open_state
from tests.monitoring.homes import NOON, Gateway

PASSED, REFUSED = Verdict(True, ("not worse",), {"rows": 9.0}), Verdict(False, ("worse on `track`", "below the floor"), {})
CHAMPION = Release(1, "champion's", "champion")


class Candidates:
    """A home with a champion, and folders of candidates."""

    def __init__(self, home: Path, params: Params) -> None:
        self.home, self.params = home, params
        self.folder("models/intent-1", "track", "refund")

    def folder(self, name: str, *labels: str) -> Path:
        folder = self.home / name
        folder.mkdir(parents=True)
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
        return folder

    def judge(self, verdict: Verdict, champion_digest: str | None = "champion's") -> None:
        with open_state(self.home) as engine, engine.begin() as connection:
            record_verdict(connection, verdict, "candidate's", champion_digest)

    def examine(self, *labels: str) -> Promotion:
        return examine_promotion(self.folder("candidate", *labels), "candidate's", CHAMPION, self.home, self.params)


@pytest.fixture
def candidates(tmp_path: Path, params: Params) -> Candidates:
    return Candidates(tmp_path, params)


def test_nothing_speaks_against_the_same_labels_and_no_verdict(candidates: Candidates) -> None:
    promotion = candidates.examine("refund", "track")
    assert promotion.objections() == []
    assert promotion.recorded is None


def test_labels_that_vanish_and_new_ones_speak_against_it(candidates: Candidates) -> None:
    gone, new = candidates.examine("track", "invoice").objections()
    assert "`refund`" in gone
    assert "`invoice`" in new


def test_the_answers_that_had_a_vanishing_label_are_counted(candidates: Candidates) -> None:
    def row(n: int, label: str) -> Prediction:
        output = ("champion", label, 0.5, None)
        return Prediction(NOON + n, "1" * 24, f"p-{n}", None, "text", None, 3, 1.0, 1, *output, b"\0" * 8, b"\0" * 4, 1.0, False)

    Gateway(candidates.home, "one").write([row(n, "refund" if n < 3 else "track") for n in range(4)])
    assert "75.0% of the last 4 answers had a label that vanishes" in candidates.examine("track").objections()


def test_a_log_that_cannot_be_read_hides_no_change(candidates: Candidates) -> None:
    log = candidates.params.log.model_copy(update={"url": "none-such://x"})
    candidates.params = candidates.params.model_copy(update={"log": log})
    (gone,) = candidates.examine("track").objections()
    assert "`refund`" in gone


def test_a_refusal_of_the_gate_speaks_against_it_with_its_reasons(candidates: Candidates) -> None:
    candidates.judge(REFUSED)
    (refusal,) = candidates.examine("refund", "track").objections()
    assert refusal.startswith("the gate refused it on ")
    assert refusal.endswith(" UTC: worse on `track`; below the floor")


def test_a_refusal_against_another_champion_says_so(candidates: Candidates) -> None:
    candidates.judge(REFUSED, "another")
    (refusal,) = candidates.examine("refund", "track").objections()
    assert "against another champion than today's" in refusal


def test_only_the_last_verdict_counts(candidates: Candidates) -> None:
    candidates.judge(REFUSED)
    candidates.judge(PASSED)
    assert candidates.examine("refund", "track").objections() == []


def test_labels_that_are_not_known_here_speak_against_it(candidates: Candidates) -> None:
    promotion = examine_promotion(candidates.home / "none", "candidate's", CHAMPION, candidates.home, candidates.params)
    (unknown,) = promotion.objections()
    assert "cannot be compared" in unknown


def test_a_parked_champion_is_compared_where_it_lies(candidates: Candidates) -> None:
    (candidates.home / "parked").mkdir()
    (candidates.home / "models/intent-1").rename(candidates.home / "parked/intent-1")
    assert candidates.examine("refund", "track").objections() == []
    assert (candidates.home / "parked/intent-1").is_dir()


def test_a_verdict_is_read_as_it_was_recorded(candidates: Candidates) -> None:
    candidates.judge(PASSED, None)
    with open_state(candidates.home) as engine, engine.begin() as connection:
        recorded = find_verdict(connection, "candidate's")
        assert find_verdict(connection, "another") is None
    assert recorded is not None
    assert (recorded.verdict, recorded.champion_digest) == (PASSED, None)
