"""The card: everything that was measured, nothing that a customer wrote, and no markup from outside."""

from typing import Any

import yaml

from pipeline.card.facts import CardFacts
from pipeline.sharing.model_card import code, model_card

LABELS = ["refund", "a|b `c` <script>", "x\ny"]
SCORES = {
    "test": {"accuracy": 0.9011, "f1_macro": 0.8984, "ece": 0.1228, "ece_calibrated": 0.052},
    "control": {"accuracy": 0.8626, "f1_macro": 0.8584},
}


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.04}


REPORT: dict[str, Any] = {
    "rows": {"train": 369, "val": 61, "test": 182},
    "cut_at_max_pieces": {"train": 1, "val": 0, "test": 2},
    "intervals": {"accuracy": interval(0.9011), "accuracy_above_control": interval(0.0384)},
    "classes": {
        "refund": {"precision": 0.9, "recall": 0.8, "f1": interval(0.85), "rows": 40},
        LABELS[1]: {"precision": 0.5, "recall": 0.6, "f1": interval(0.55), "rows": 12},
    },
    "confused_pairs": [{"true": "refund", "predicted": LABELS[1], "rows": 3, "texts": ["my card 4111 was charged"]}],
}
DATA: dict[str, Any] = {
    "source": {"file": "data/few.jsonl", "rows": 612},
    "quarantined": {"rows": 4},
    "feedback": {"new": 2, "settled": 1},
}
FACTS = CardFacts(
    title="evergreen version 3",
    base_model="sentence-transformers/all-MiniLM-L6-v2",
    labels=LABELS,
    temperature=0.639,
    max_pieces=128,
    origin={"mlflow_run_id": "56e9", "git_commit": "1ce2c582e53d37cf", "git_dirty": True, "data_digest": "520db683cb06"},
    params={"train.epochs": "6", "model.lora_rank": "32", "evaluate.confidence": "0.95"},
    scores=SCORES,
    report=REPORT,
    data=DATA,
    session={"session": "packed-onnxruntime-fp32"},
    is_adapter=True,
)
EMPTY = FACTS._replace(scores={}, report={}, data={}, session={}, params={}, origin={})


def test_it_says_when_the_model_abstains() -> None:
    test = SCORES["test"] | {"accuracy_at_coverage_80": 0.95}
    control = SCORES["control"] | {"accuracy_at_coverage_80": 0.9}
    report = REPORT | {"abstain": {"lines": ["abstains below confidence 0.611", "nothing is known about out-of-scope texts"]}}
    card = model_card(FACTS._replace(scores=SCORES | {"test": test, "control": control}, report=report), "")
    assert "| 80 % | 95.0 % | 90.0 % |" in card
    assert "- abstains below confidence 0.611\n- nothing is known about out-of-scope texts\n" in card
    assert "## Abstaining" not in model_card(FACTS, "")  # an older run has no coverage curve


def test_it_reports_what_was_measured_with_intervals_beside_the_control() -> None:
    card = model_card(FACTS, "## Use")
    assert "| accuracy | 90.1 % | 85.1 to 94.1 % | 86.3 % | +3.8 points, -1.2 to +7.8 |" in card
    assert "612 rows of `data/few.jsonl`, 4 of them set aside as unusable, and 3 labels that people gave later" in card
    assert "369 rows to train, 61 to choose the epoch and calibrate, 182 held out to test" in card
    assert "| `refund` | 40 | 90.0 % | 80.0 % | 85.0 % | 80.0 to 89.0 % |" in card
    assert "The expected calibration error on the test rows is 5.2 % (12.3 % without the temperature)." in card
    assert "cut after 128 tokens: 3 of these rows were" in card
    assert "Fewer than 30 test rows" in card
    assert "`1ce2c582e53d, with uncommitted changes`" in card
    assert card.index("a\\|b") < card.index("`refund` | 40")  # the weakest label first


def test_its_metadata_is_what_the_hub_reads() -> None:
    front = yaml.safe_load(model_card(FACTS, "").split("---\n")[1])
    assert front["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert (front["library_name"], front["pipeline_tag"]) == ("peft", "text-classification")
    metrics = front["model-index"][0]["results"][0]["metrics"]
    assert metrics == [
        {"type": "accuracy", "name": "accuracy", "value": 0.9011},
        {"type": "f1", "name": "macro-F1", "value": 0.8984},
    ]


def test_no_text_of_a_customer_is_in_it_and_no_label_is_markup() -> None:
    card = model_card(FACTS, "")
    assert "4111" not in card
    assert code("a|b `c` <script>") == "`` a\\|b `c` <script> ``"
    assert code("x\ny") == "`x\\ny`"
    assert code("a `` <img> `` b") == "``` a `` <img> `` b ```"
    assert code("") == ""
    for line in card.splitlines():
        assert line.count("<script>") == line.count("`c` <script>"), "only inside code"


def test_missing_reports_are_said_and_not_invented() -> None:
    card = model_card(EMPTY, "")
    assert "The scores of this version are not at hand" in card
    assert "model-index" not in card
    assert "Calibration" not in card
    assert "`refund`" in card
