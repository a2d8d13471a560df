"""The fence: a text from people that nearly equals a row that measures the model never enters training, and is reported."""

import pytest

from pipeline.data.fence import Fence
from pipeline.params import Params
from tests.pipeline.stages.test_ingest import LONG, REFUND, TRACK, Inputs, accounted, inputs, pairs

__all__ = ["inputs"]
WORDS = ("at", "by", "in", "on", "to", "up", "via", "off", "out", "over", "past", "near", "down", "from", "into", "like")


def on_side(side: str, params: Params, *, has_test: bool = False, start: str = LONG) -> list[str]:
    """Return texts that nearly equal each other and fall on this side."""
    fence = Fence((), params.split, has_test=has_test, jaccard=0.8)
    return [text for text in (f"{start} {word}" for word in WORDS) if fence.side(text) == side]


def given(text: str, people: int = 1) -> dict[str, object]:
    return {"text": text, "label": "track", "labellers": [f"person {number}" for number in range(people)]}


@pytest.mark.parametrize("side", ["test", "val"])
def test_a_label_on_a_near_copy_of_a_measuring_row_is_set_aside(inputs: Inputs, params: Params, side: str) -> None:
    measuring, near = on_side(side, params)[0], on_side("train", params)[0]
    result = inputs.ingest(
        [TRACK, REFUND, {"text": measuring, "label": "track"}], feedback=[[given(near), given("a new text", people=2)]]
    )
    assert near not in dict(pairs(result)) and "a new text" in dict(pairs(result))
    assert result.report["feedback"]["fenced"] == 1
    assert [(row.line, row.kind) for row in result.quarantined] == [(1, "fenced off from training")]
    assert measuring in result.quarantined[0].reason and accounted(result.report) == 5


def test_a_near_copy_of_a_supplied_test_row_is_set_aside(inputs: Inputs, params: Params) -> None:
    near = on_side("train", params, has_test=True)[0]
    result = inputs.ingest([TRACK, REFUND], test=[{"text": f"{LONG} home", "label": "track"}], feedback=[[given(near)]])
    assert pairs(result) == pairs(inputs.ingest([TRACK, REFUND])) and result.report["feedback"]["fenced"] == 1


def test_a_new_text_that_measures_the_model_itself_may_pass_and_fences_off_its_near_copies(
    inputs: Inputs, params: Params
) -> None:
    measuring, near = on_side("test", params)[0], on_side("train", params)[0]
    result = inputs.ingest([TRACK, REFUND], feedback=[[given(near), given(measuring, people=2)]])
    assert measuring in dict(pairs(result)) and near not in dict(pairs(result))


def test_a_near_copy_of_a_training_row_is_learnt_from(inputs: Inputs, params: Params) -> None:
    row, near = on_side("train", params)[:2]
    result = inputs.ingest([REFUND, {"text": row, "label": "track"}], feedback=[[given(near)]])
    assert near in dict(pairs(result)) and result.report["feedback"]["fenced"] == 0


def test_an_equal_text_in_other_case_and_punctuation_is_held_by_the_ledger(params: Params) -> None:
    fence = Fence([f"{LONG} home"], params.split, has_test=True, jaccard=0.8)
    fence.add("where is it")
    train = [text for text in (f"{LONG.upper()}, home!", "Where is it?") if fence.side(text) == "train"]
    assert train and all(fence.measuring_text(text) for text in train)
