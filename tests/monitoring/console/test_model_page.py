"""Model: what the signed folder of a version tells, beside the control, and two versions by the gate's paired test."""

from pathlib import Path

import numpy as np
import pytest
import requests
from markupsafe import escape

from monitoring.console.model.figures import axis_of, class_marks, interval_marks
from monitoring.console.model.page import SCORES
from monitoring.console.model.version_card import other_settings, read_card
from monitoring.flywheel.label_return import measure_returns
from monitoring.flywheel.queue.round import Cluster, Round, write_round
from monitoring.retrain.gate.recorded_verdicts import record_verdict
from monitoring.retrain.gate.returns import store_returns
from monitoring.retrain.gate.verdict import Verdict
from pipeline.output.plain_text import printable
from pipeline.params import Params
from state.database import open_state
from tests.monitoring.console.console_client import console_client
from tests.monitoring.console.published import HOSTILE, LABELS, ROWS, card, digest, publish

SHOWN_HOSTILE = str(escape(printable(HOSTILE)))


def test_the_card_holds_scores_beside_the_control_classes_calibration_confusions_and_limits(
    params: Params, tmp_path: Path
) -> None:
    publish(tmp_path)
    with console_client(params, tmp_path) as console:
        page = console.page("/model")
    for part in (
        "version 1, champion",
        "It answers clients now.",
        "80.0%",
        "75.0 to 85.0%",
        "70.0%",
        "+10.0 points (+5.0 to +15.0)",
        "3.6%",
        "before calibration by 15.0%",
        f"<bdi>refund</bdi> taken for <bdi>{SHOWN_HOSTILE}</bdi>: 4 test rows",
        "F1 below 60% on the test rows: refund, track.",
        "Fewer than 30 test rows",
        "110 rows of <code>data/&lt;b&gt;.csv</code>, 3 set aside",
        "60 to train, 10 to choose the epoch and calibrate, 40 to test",
        "packed-openvino-bf16",
        "sentence-transformers/all-MiniLM-L6-v2",
        "1ce2c582e53d",
        "by hand; no retrain asked for it",
    ):
        assert part in page, part
    assert "<script>alert" not in page
    classes = page[page.index("By label, the weakest first") :]
    assert classes.index("<bdi>refund</bdi>") < classes.index(SHOWN_HOSTILE) < classes.index("label 4")


def test_a_version_from_before_cards_travelled_has_the_scores_of_its_reference(params: Params, tmp_path: Path) -> None:
    publish(tmp_path, right=30, is_whole=False)
    with console_client(params, tmp_path) as console:
        page = console.page("/model/1")
    assert "published before its reports travelled with it" in page
    assert "75.0%" in page
    assert "56e9" in page
    assert "By label, the weakest first" in page


@pytest.mark.parametrize("path", ["/model", "/model/7", "/model/1/against/2"])
def test_without_a_version_the_page_says_what_to_do(path: str, params: Params, tmp_path: Path) -> None:
    with console_client(params, tmp_path) as console:
        page = console.page(path)
    assert 'role="alert"' in page
    assert "make repro" in page or "evergreen publish" in page or "dvc repro" in page


@pytest.mark.parametrize("version", ["9" * 5000, "1x", "٣"])
def test_what_is_no_version_number_is_no_page(version: str, params: Params, tmp_path: Path) -> None:
    with console_client(params, tmp_path) as console:
        answers = [requests.get(f"{console.url}/model/{path}", timeout=60) for path in (version, f"1/against/{version}")]
    assert [answer.status_code for answer in answers] == [404, 404]


def test_an_altered_version_is_not_shown(params: Params, tmp_path: Path) -> None:
    folder = publish(tmp_path)
    (folder / "card.json").write_text((folder / "card.json").read_text().replace("0.8", "0.9"))
    with console_client(params, tmp_path) as console:
        page = console.page("/model/1")
    assert "does not have the SHA-256 of the manifest" in page
    assert "By label" not in page


def test_the_gates_last_verdict_on_the_content_is_shown(params: Params, tmp_path: Path) -> None:
    publish(tmp_path)
    with open_state(tmp_path) as engine, engine.begin() as connection:
        record_verdict(connection, Verdict(False, ("accuracy fell by 3 points <b>",), {}), digest(1))
    with console_client(params, tmp_path) as console:
        page = console.page("/model/1")
    assert "The gate refused it" in page
    assert "accuracy fell by 3 points &lt;b&gt;" in page


def test_what_the_labels_behind_a_version_brought_is_shown_by_cluster(params: Params, tmp_path: Path) -> None:
    publish(tmp_path)
    flags = (np.arange(30) < right for right in (10, 25))
    returns = measure_returns(np.array([4] * 15 + [7] * 15), *flags, {4: 40, 7: 35}, {4: 300, 7: 60}, 0.95)
    write_round(tmp_path, Round(0.0, 1, [], [Cluster(4, ("pairing", HOSTILE), (), 300, 0.5, 0.4, 0.6, 1.0, 0.0, 1.0, (1.0,))], 8))
    with open_state(tmp_path) as engine, engine.begin() as connection:
        store_returns(connection, digest(1), returns)
    with console_client(params, tmp_path) as console:
        page = console.page("/model/1")
    shown = page[page.index("What its labels brought") :]
    assert "Of 30 held-out texts that people labelled, it gained 15 and lost 0" in shown
    assert "go on" in shown
    assert f"4 <bdi>pairing, {SHOWN_HOSTILE}</bdi>" in shown
    assert shown.index("<bdi>pairing") < shown.index("7 <bdi>")


def test_two_versions_are_compared_by_the_gates_paired_test(params: Params, tmp_path: Path) -> None:
    publish(tmp_path, 1, right=20)
    publish(tmp_path, 2, right=36, epochs=8)
    with console_client(params, tmp_path) as console:
        page = console.page("/model/1/against/2")
        version = console.page("/model/2")
    for part in (
        "Version 2 is better",
        f"on the {ROWS} test rows that both were measured on",
        "Only version 2 is right on 16 of them, only version 1 on 0",
        "would pass version 2",
        '<td class="number">50.0%</td><td class="number">90.0%</td><td class="number">+40.0</td>',
        "<code>train.epochs</code></th><td>6</td><td>8</td>",
        "16 now right",
    ):
        assert part in page, part
    assert "/model/1/against/2" in version
    assert "It is a candidate for champion." in version


def test_settings_that_differ_from_params_here_are_named_and_equal_numbers_are_not(params: Params, tmp_path: Path) -> None:
    publish(tmp_path, epochs=9)
    facts = read_card(1, params, tmp_path).facts
    assert [(setting.name, setting.value, setting.here) for setting in other_settings(facts, params)] == [
        ("train.epochs", "9", str(params.train.epochs))
    ]
    equal = facts._replace(params={"train.weight_decay": "1e-2", "nothing.of_ours": "5"})
    assert other_settings(equal, params) == []


def test_marks_lie_on_one_axis() -> None:
    marks = interval_marks(card()["scores"], card()["report"]["intervals"], SCORES)
    assert [mark.name for mark in marks] == ["accuracy", "macro-F1"]
    assert marks[0].axis == marks[1].axis == axis_of([0.69])
    assert [round(marks[0].at(share)) for share in (0.6, 0.8, 1.0, 0.1)] == [0, 50, 100, 0]
    assert [mark.name for mark, _ in class_marks(card()["report"]["classes"])][:2] == list(LABELS[:2])
    assert interval_marks({}, {}, SCORES) == class_marks({}) == []
