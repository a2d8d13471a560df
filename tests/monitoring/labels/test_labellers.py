"""Who counts: accuracy on texts whose label is known, over all of them and for each class."""

from collections.abc import Mapping
from statistics import NormalDist

import pytest

from monitoring.labels.entries import FeedbackEntry
from monitoring.labels.labellers import CONFIDENCE, ControlAnswers, LabellerScore, score_labellers
from monitoring.labels.opinions import LabelledText, Opinions
from pipeline.params import Params

CLASSES = [f"class {n}" for n in range(20)]


def score(answers: Mapping[str, str], each: int) -> LabellerScore:
    """Return the score of somebody who gives `each` texts of every class the same answer; without an entry the right one."""
    trusted = {f"{label} {n}": label for label in CLASSES for n in range(each)}
    texts = {
        key: LabelledText(key, (FeedbackEntry(number, key, answers.get(label, label), "mallory", 0.0),))
        for number, (key, label) in enumerate(trusted.items())
    }
    return score_labellers(Opinions(texts, {}), trusted)["mallory"]


@pytest.mark.parametrize(("each", "is_counted"), [(9, True), (10, False)])
def test_who_swaps_two_classes_and_is_right_on_all_others_is_found_by_ten_texts_of_a_class(
    each: int, is_counted: bool, params: Params
) -> None:
    swapped = score({"class 3": "class 7", "class 7": "class 3"}, each)
    assert swapped.total == ControlAnswers(20 * each, 18 * each)
    assert not swapped.total.is_surely_below(params.labels.min_control_accuracy)
    assert swapped.is_counted(params.labels) == is_counted
    assert swapped.mistaken_classes(params.labels) == ([] if is_counted else ["class 3", "class 7"])


def test_few_texts_of_a_class_judge_nobody(params: Params) -> None:
    assert score({"class 3": "class 7"}, 2).is_counted(params.labels)


def test_right_answers_count(params: Params) -> None:
    assert score({}, 30).is_counted(params.labels)


def test_the_interval_of_many_classes_is_wider_and_keeps_the_joint_error() -> None:
    one, twenty = ControlAnswers(40, 20).interval(), ControlAnswers(40, 20).interval(at_once=20)
    assert one is not None and twenty is not None
    assert twenty.lower < one.lower < one.upper < twenty.upper
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 40)
    assert twenty.upper == pytest.approx((0.5 + z * z / 80 + z * (0.25 / 40 + z * z / 6400) ** 0.5) / (1 + z * z / 40))
