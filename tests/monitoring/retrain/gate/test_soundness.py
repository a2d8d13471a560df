"""The gate's checks of a candidate alone: how often they are wrong about calibrated models, and what they say of others."""

import numpy as np
import pytest
from scipy import special

from monitoring.retrain.gate.soundness import check_calibration, check_reference, check_weights, temperature_p_values
from pipeline.params import Gate
from pipeline.reference_profile import Reference

RUNS = 400


def draw(rng: np.random.Generator, rows: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities of a model whose right temperature is `temperature`, and right classes."""
    logits = rng.normal(scale=2.0, size=(rows, 4))
    shares = special.softmax(logits / temperature, axis=1)
    right = (rng.random(rows)[:, None] > shares.cumsum(axis=1)).sum(axis=1)
    return special.softmax(logits, axis=1).astype(np.float32), np.minimum(right, 3)


@pytest.mark.parametrize(("temperature", "which"), [(3.0, 0), (1 / 3, 1)])
def test_a_temperature_at_the_limit_is_refused_as_often_as_promised(temperature: float, which: int) -> None:
    rng = np.random.default_rng(3)
    refused = [temperature_p_values(*draw(rng, 200, temperature), 3.0)[which] <= 0.01 for _ in range(RUNS)]
    assert np.mean(refused) <= 0.025  # three standard errors above 0.01


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.6])
@pytest.mark.parametrize("rows", [30, 200, 2000])
def test_a_model_that_is_about_calibrated_is_never_refused(temperature: float, rows: int, settings: Gate) -> None:
    rng = np.random.default_rng(4)
    for _ in range(100):
        probabilities, right = draw(rng, rows, temperature)
        labels = [f"intent {number}" for number in range(4)]
        assert check_calibration(probabilities, labels, np.array(labels)[right], settings).failures == ()


@pytest.mark.parametrize("temperature", [8.0, 1 / 8])
def test_a_temperature_far_off_is_always_refused(temperature: float) -> None:
    rng = np.random.default_rng(5)
    assert all(min(temperature_p_values(*draw(rng, 400, temperature), 3.0)) <= 0.01 for _ in range(100))


def test_rows_of_labels_that_the_model_lacks_say_nothing_of_its_calibration(settings: Gate) -> None:
    sure = np.tile(np.array([[0.999, 0.001]], dtype=np.float32), (100, 1))
    unknown = check_calibration(sure, ["a", "b"], np.array(["c"] * 100), settings)
    assert unknown.failures == ()
    assert unknown.numbers == {"calibration/p_too_sharp": 1.0, "calibration/p_too_flat": 1.0}
    assert check_calibration(sure, ["a", "b"], np.array(["b", "a"] * 50), settings).failures != ()


def test_three_tensors_are_named_and_the_others_counted() -> None:
    assert check_weights([]).failures == ()
    reason = check_weights(["a", "b", "c", "d", "e"]).failures[0]
    assert reason.startswith("weights are no numbers in `a`, `b`, `c` and 2 more: train again")


def reference_of(ids: list[str], probabilities: np.ndarray) -> Reference:
    count = len(ids)
    ones = np.ones(count, dtype=np.bool_)
    sizes = np.ones(count, dtype=np.int32), np.ones(count, dtype=np.float32)
    return Reference(np.array(ids), np.array(["a", "b"]), probabilities, np.zeros((count, 2), np.float16), *sizes, ones, ones)


def test_a_reference_is_compared_on_the_rows_that_it_shares_with_the_current_ones(settings: Gate) -> None:
    ids, own = ["1", "2", "3"], np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], dtype=np.float32)
    assert check_reference(reference_of(ids[::-1], own[::-1]), ids, own, ["a", "b"], settings).numbers == {"reference/gap": 0.0}
    other = check_reference(reference_of(["2", "9"], own[:2]), ids, own, ["a", "b"], settings)
    assert other.numbers["reference/gap"] == pytest.approx(0.7)
    assert "on 1 rows a probability differs by 0.700" in other.failures[0]


def test_a_package_without_a_reference_or_shared_rows_is_not_refused_for_it(settings: Gate) -> None:
    own = np.array([[0.9, 0.1]], dtype=np.float32)
    assert check_reference(None, ["1"], own, ["a", "b"], settings).failures == ()
    assert check_reference(reference_of(["2"], own), ["1"], own, ["a", "b"], settings).failures == ()
