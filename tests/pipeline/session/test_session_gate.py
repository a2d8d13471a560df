"""The session gate: sessions that may serve instead of fp32, and reasons for refusals."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from pipeline.errors import RefusedError, ToolError
from pipeline.params import Params, Session
from pipeline.runtime.outputs import ModelOutputs
from pipeline.session.candidates import alone_and_batched, batch_sensitivity
from pipeline.session.session_gate import (
    Fidelity,
    Measurement,
    decide_session,
    format_table,
    measure_candidates,
)
from pipeline.session.timing import BASELINE

BF16, INT8 = "packed-openvino-bf16", "packed-openvino-int8"
FP32 = Measurement(texts_per_s=100, speedup=1.0, fidelity=Fidelity(agreement=1.0, accuracy=0.80, batch_effect=0.0))
SAME = Fidelity(agreement=0.995, accuracy=0.797, batch_effect=0.004)
GOOD = Measurement(texts_per_s=180, speedup=1.8, fidelity=SAME)


def good(speedup: float = GOOD.speedup, **fidelity: float) -> Measurement:
    """A candidate that passes, but for what is given."""
    return Measurement(texts_per_s=180, speedup=speedup, fidelity=SAME._replace(**fidelity))


@pytest.fixture
def settings(params: Params) -> Session:
    return params.session


def verdicts(
    measured: dict[str, Measurement], settings: Session, absent: dict[str, str] | None = None
) -> tuple[str, dict[str, str]]:
    chosen, candidates = decide_session({BASELINE: FP32, **measured}, absent or {}, settings)
    return chosen, {candidate.name: candidate.verdict for candidate in candidates}


def test_the_fastest_that_predicts_as_fp32_serves(settings: Session) -> None:
    faster = GOOD._replace(speedup=2.1)
    assert verdicts({BF16: GOOD, INT8: faster}, settings) == (INT8, {BASELINE: "passed", BF16: "passed", INT8: "chosen"})


def test_of_two_about_equally_fast_the_one_closer_to_fp32_serves(settings: Session) -> None:
    near = good(agreement=1.0, speedup=2.0)
    chosen, candidates = decide_session({BASELINE: FP32, BF16: near, INT8: GOOD._replace(speedup=2.19)}, {}, settings)
    assert chosen == BF16
    assert next(row.why for row in candidates if row.name == INT8) == f"{BF16} is closer to fp32, and hardly slower"
    assert verdicts({BF16: near, INT8: GOOD._replace(speedup=2.21)}, settings)[0] == INT8


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"agreement": 0.9899}, "98.99% of labels agree"),
        ({"accuracy": 0.794}, "0.60 points lost"),
        ({"batch_effect": 0.0076}, "a probability moves by 0.0076 with the other texts in its batch, 0.0075 allowed"),
        ({"batch_effect": float("nan")}, "with the other texts in its batch"),
        ({"agreement": float("nan")}, "labels agree"),
        ({"accuracy": float("nan")}, "points lost"),
    ],
    ids=str,
)
def test_sessions_with_other_predictions_are_refused_however_fast(
    fault: dict[str, float], reason: str, settings: Session
) -> None:
    wild = good(speedup=9.0, **fault)
    chosen, candidates = decide_session({BASELINE: FP32, BF16: GOOD, INT8: wild}, {}, settings)
    assert chosen == BF16
    refused = next(row for row in candidates if row.name == INT8)
    assert refused.verdict == "refused"
    assert reason in refused.why
    assert reason in format_table(candidates)


class BatchSensitive:
    """A classifier whose probability of one text rises with the size of the batch."""

    def predict(self, texts: Sequence[str]) -> ModelOutputs:
        first = np.array([0.5 + 0.001 * (len(texts) - 1) * (text == "swayed") for text in texts])
        return ModelOutputs(["a"] * len(texts), np.stack([first, 1 - first], axis=1), *[cast(Any, None)] * 3)


@pytest.mark.parametrize(("batch", "among", "moved"), [(8, 4, 0.007), (2, 5, 0.004), (1, 1, 0.0)])
def test_a_single_batch_sensitive_text_is_found_among_all(batch: int, among: int, moved: float) -> None:
    """Both the batches that Triton gives and those of all rows count."""
    texts = ["firm"] * 299 + ["swayed"] + ["firm"] * 20
    among_all = BatchSensitive().predict(texts).probabilities
    among_all[299] = BatchSensitive().predict(["swayed", *["firm"] * (among - 1)]).probabilities[0]
    alone, batched = alone_and_batched(cast(Any, (BatchSensitive(), BatchSensitive())), texts, batch)
    assert batch_sensitivity(alone, batched, among_all) == pytest.approx(moved)


def test_the_limits_themselves_pass(settings: Session) -> None:
    edge = good(agreement=settings.min_agreement, accuracy=0.80 - settings.max_accuracy_loss + 1e-12)
    assert verdicts({BF16: edge}, settings)[0] == BF16


def test_a_little_faster_is_not_worth_another_engine(settings: Session) -> None:
    slow = GOOD._replace(speedup=settings.min_speedup - 0.01)
    assert verdicts({BF16: slow}, settings) == (BASELINE, {BASELINE: "chosen", BF16: "passed"})


def test_a_session_that_cannot_run_here_is_reported_and_stops_no_other(settings: Session) -> None:
    chosen, by_name = verdicts({INT8: GOOD}, settings, absent={BF16: "this CPU has no bfloat16"})
    assert (chosen, by_name[BF16]) == (INT8, "cannot run")


def test_fp32_is_refused_when_its_own_answers_depend_on_the_batch_and_nothing_else_passes(settings: Session) -> None:
    unsteady = FP32._replace(fidelity=Fidelity(agreement=1.0, accuracy=0.80, batch_effect=0.0076))
    with pytest.raises(RefusedError, match=r"onnxruntime-fp32: a probability moves by 0\.0076"):
        decide_session(
            {BASELINE: unsteady, BF16: good(agreement=0.9), INT8: GOOD._replace(speedup=1.05, fidelity=None)}, {}, settings
        )


def test_a_session_that_params_name_serves_if_it_passes(settings: Session) -> None:
    named = settings.model_copy(update={"choice": BF16})
    assert verdicts({BF16: GOOD._replace(speedup=0.5)}, named)[0] == BF16
    with pytest.raises(RefusedError, match=r"90\.00% of labels agree"):
        verdicts({BF16: good(agreement=0.9)}, named)
    with pytest.raises(ToolError, match="no bfloat16"):
        verdicts({}, named, absent={BF16: "this CPU has no bfloat16"})


class Checks:
    """Answers of candidates, and the order in which they were compared."""

    def __init__(self, **fidelity: Fidelity) -> None:
        self.fidelity, self.order = fidelity, list[tuple[str, bool]]()

    def __call__(self, name: str, with_batch_effect: bool) -> Fidelity:
        self.order.append((name, with_batch_effect))
        return self.fidelity.get(name.replace("-", "_"), SAME)


SECONDS = {BASELINE: [[4.0]], "openvino-bf16": [[3.9]], "packed-onnxruntime-fp32": [[2.0]], BF16: [[1.0]], INT8: [[0.5]]}


def test_answers_are_compared_from_the_fastest_down_until_the_rest_are_too_slow_to_be_chosen(settings: Session) -> None:
    checks = Checks()
    measured = measure_candidates(SECONDS, 8, checks, settings)
    assert checks.order == [(BASELINE, False), (INT8, True)]
    chosen, candidates = decide_session(measured, {}, settings)
    assert chosen == INT8
    assert [candidate.verdict for candidate in candidates] == ["passed", "not checked", "not checked", "not checked", "chosen"]
    assert "1.03 times as fast as fp32, 1.1 needed" in format_table(candidates)


def test_the_next_fastest_is_compared_when_the_fastest_is_refused(settings: Session) -> None:
    checks = Checks(packed_openvino_int8=SAME._replace(batch_effect=0.02))
    measured = measure_candidates(SECONDS, 8, checks, settings)
    assert checks.order == [(BASELINE, False), (INT8, True), (BF16, True)]
    assert decide_session(measured, {}, settings)[0] == BF16


def test_two_about_equally_fast_are_both_compared(settings: Session) -> None:
    checks = Checks(packed_openvino_bf16=SAME._replace(agreement=1.0))
    measured = measure_candidates(SECONDS | {BF16: [[0.54]]}, 8, checks, settings)
    assert [name for name, _ in checks.order] == [BASELINE, INT8, BF16]
    assert decide_session(measured, {}, settings)[0] == BF16


def test_fp32_itself_is_compared_alone_and_in_batches_when_nothing_else_passes(settings: Session) -> None:
    worse = SAME._replace(agreement=0.5)
    checks = Checks(packed_openvino_int8=worse, packed_openvino_bf16=worse, packed_onnxruntime_fp32=worse)
    measured = measure_candidates(SECONDS, 8, checks, settings)
    assert checks.order[-1] == (BASELINE, True)
    assert decide_session(measured, {}, settings)[0] == BASELINE
