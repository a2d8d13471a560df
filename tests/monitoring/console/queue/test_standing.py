"""What the label queue asks after labels that training leaves out: withdrawn ones, and those of a labeller who does not count."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from monitoring.labels.controls import read_controls
from monitoring.labels.entries import withdraw
from pipeline.params import Params
from state.database import open_state
from state.tables import labellers
from tests.conftest import ROOT
from tests.monitoring.console.queue.queue_client import Person, label_queue, labels_in_force, token
from tests.monitoring.console.queue.rounds import TEXTS, write_queue

pytestmark = pytest.mark.usefixtures("own_database")
REFUND = json.dumps("refund")


def leave_out(home: Path, name: str) -> None:
    """Store that this labeller does not count."""
    bad = {"name": name, "controls": 20, "controls_right": 0, "is_counted": False, "measured_at": datetime.now(UTC)}
    with open_state(home) as engine, engine.begin() as connection:
        connection.execute(labellers.insert().values(bad))


def withdraw_all(home: Path, name: str) -> None:
    """Withdraw this labeller's labels, as an operator does."""
    with open_state(home) as engine, engine.begin() as connection:
        assert withdraw(connection, name, None)


@pytest.mark.parametrize("leave_out_labels", [leave_out, withdraw_all])
def test_labels_that_do_not_count_leave_the_text_open_for_others_and_closed_for_their_labeller(
    params: Params, tmp_path: Path, leave_out_labels: Callable[[Path, str], None]
) -> None:
    write_queue(tmp_path)
    ana, ben = (token(tmp_path, name) for name in ("ana", "ben"))
    with label_queue(params, tmp_path) as url:
        first, second = Person(url), Person(url)
        first.log_in(ana, "/label")
        first.open("/label/next")
        first.send("/label/give", label=REFUND)
        leave_out_labels(tmp_path, "ana")
        second.log_in(ben, "/label")
        assert "1 of 3 labelled" not in second.page
        second.open("/label/next")
        assert second.text == TEXTS[0][0] and "named in this cluster" not in second.page
        for _ in range(2):
            first.open("/label/next")
            assert first.text == TEXTS[1][0]


def test_a_person_whose_labels_an_operator_withdraws_comes_to_the_end_and_undo_opens_a_text_again(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway leaves such a label withdrawn when it is given again, so asking again would have no end."""
    monkeypatch.chdir(ROOT)  # whose corpus the control texts are from
    write_queue(tmp_path)
    shown: list[str] = []
    with label_queue(params, tmp_path, control_share=0.5) as url:
        person = Person(url)
        person.open("/label/next")
        while "Nothing is left" not in person.page:
            assert person.text not in shown
            shown.append(person.text)
            person.send("/label/give", label=REFUND)
            withdraw_all(tmp_path, "local")
            person.open("/label/next")
        assert set(shown) == {text for text, _ in TEXTS} | set(read_controls(tmp_path).values())
        person.send("/label/undo")
        assert person.text == shown[-1]
        person.send("/label/give", label=REFUND)
        assert "Nothing is left" in person.page
    assert labels_in_force(tmp_path) == []
