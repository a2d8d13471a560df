"""What a person learns whose fine-tuned model is no better than the frozen control."""

import pytest

from pipeline.card.advice import control_advice


def advice(accuracy: float, low: float, high: float, *, train: int = 240) -> str:
    """Return the advice for a control of 57 %, twenty classes and 70 test rows."""
    scores = {"test": {"accuracy": accuracy}, "control": {"accuracy": 0.57}}
    gain = {"value": accuracy - 0.57, "low": low, "high": high}
    rows, classes = {"train": train, "test": 70}, dict.fromkeys(range(20))
    report = {"intervals": {"accuracy_above_control": gain}, "rows": rows, "classes": classes}
    return "\n".join(control_advice(scores, report))


def test_a_model_that_is_clearly_better_needs_no_advice() -> None:
    assert advice(0.68, 0.05, 0.17) == ""


@pytest.mark.parametrize(
    ("accuracy", "low", "high", "verdict"),
    [
        (0.54, -0.1, 0.029, "not better than the frozen encoder on these data: -3.0 points of accuracy (interval -10.0 to +2.9)"),
        (0.57, -0.05, 0.05, "not better than the frozen encoder"),
        (0.40, -0.3, -0.05, "worse than the frozen encoder"),
        (0.60, -0.02, 0.08, "not shown to be better than the frozen encoder"),
    ],
)
def test_one_that_is_not_is_told_apart_by_the_paired_interval(accuracy: float, low: float, high: float, verdict: str) -> None:
    assert f"fine-tuning is {verdict}" in advice(accuracy, low, high)


def test_few_rows_a_class_come_before_settings() -> None:
    few, many = advice(0.54, -0.1, 0.03), advice(0.54, -0.1, 0.03, train=20_000)
    assert "more labelled rows (12 a class train here), texts without labels (data.unlabelled)" in few
    assert "more labelled rows" not in many
    for text in (few, many):
        assert "train.epochs and train.consistency" in text
        assert "evergreen try -S train.frozen='*.layer.*'" in text


def test_scores_of_an_earlier_release_have_no_interval() -> None:
    (verdict, *_) = control_advice({"test": {"accuracy": 0.5}, "control": {"accuracy": 0.6}}, {})
    assert verdict == "fine-tuning is not better than the frozen encoder on these data: -10.0 points of accuracy"
    assert control_advice({"test": {"accuracy": 0.7}, "control": {"accuracy": 0.6}}, {}) == []


def test_who_has_trained_the_head_alone_is_not_told_to_do_so() -> None:
    scores = {"test": {"accuracy": 0.5}, "control": {"accuracy": 0.6}}
    told, untold = control_advice(scores, {}), control_advice(scores, {}, frozen="*.layer.*")
    assert "train.frozen" in told[-1]
    assert untold == told[:-1]
