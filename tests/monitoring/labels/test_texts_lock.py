"""Processes that hand out control texts at the same time lose none of their ids."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from monitoring.labels.controls import issue_controls, read_controls
from tests.monitoring.homes import NOON


def hand_out(home: Path, person: str) -> list[str]:
    """Hand out control texts one after another."""
    return [issue_controls(home, {f"{person} {number}": NOON}, 1)[0].id for number in range(20)]


def test_no_control_text_is_lost_between_processes(tmp_path: Path) -> None:
    issue_controls(tmp_path, {"first": NOON}, 1)  # makes the key
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        given = [id for ids in pool.map(hand_out, [tmp_path] * 2, ["ana", "ben"]) for id in ids]
    assert len(given) == len(set(given)) == 40
    assert set(given) < set(read_controls(tmp_path))
