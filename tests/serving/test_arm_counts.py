"""Counts of the arms of a release: buckets of latencies, and totals that several gateways add to."""

import doctest
import threading

import pytest
import sqlalchemy as sa

from serving import arm_counts
from serving.arm_counts import ARMS, FIRST_MS, RATIO, ArmTotals, add_counts, bucket_ms, bucket_of, read_counts


def test_a_latency_lies_between_the_ends_of_its_bucket_and_of_the_one_before() -> None:
    for latency_ms in (0.05, 0.1, 0.3, 1.0, 7.7, 49.9, 250.0, 10_000.0):
        bucket = bucket_of(latency_ms)
        assert latency_ms <= bucket_ms(bucket) * (1 + 1e-9)
        assert bucket == 0 or latency_ms > bucket_ms(bucket - 1)


def test_the_end_of_a_bucket_belongs_to_it() -> None:
    assert [bucket_of(bucket_ms(bucket)) for bucket in range(200)] == list(range(200))


def test_buckets_begin_where_no_gateway_answers_faster_and_grow_by_a_tenth() -> None:
    assert (bucket_of(0.0), bucket_ms(0)) == (0, FIRST_MS)
    assert bucket_ms(31) / bucket_ms(30) == pytest.approx(RATIO)


def test_the_examples_are_true() -> None:
    result = doctest.testmod(arm_counts)
    assert result.attempted and not result.failed


def test_a_release_without_answers_has_zeros(state: sa.Engine) -> None:
    with state.begin() as connection:
        assert read_counts(connection, "unknown") == {arm: ArmTotals() for arm in ARMS}


def test_counts_add_up_and_belong_to_one_release(state: sa.Engine) -> None:
    with state.begin() as connection:
        add_counts(connection, "s", {"challenger": ArmTotals(3, 1, 2, {10: 2, 11: 1}), "baseline": ArmTotals(answered=4)})
    with state.begin() as connection:
        add_counts(connection, "s", {"challenger": ArmTotals(1, latencies={11: 4})})
        add_counts(connection, "other", {"challenger": ArmTotals(100)})
    with state.begin() as connection:
        totals = read_counts(connection, "s")
    assert totals["challenger"] == ArmTotals(4, 1, 2, {10: 2, 11: 5})
    assert totals["baseline"] == ArmTotals(answered=4)
    assert totals["shadow"] == totals["champion"] == ArmTotals()


def test_an_empty_increment_changes_nothing(state: sa.Engine) -> None:
    with state.begin() as connection:
        add_counts(connection, "s", {})
        assert read_counts(connection, "s")["challenger"] == ArmTotals()


def test_gateways_that_add_at_the_same_time_lose_no_count(state: sa.Engine) -> None:
    increments = {arm: ArmTotals(1, 1, 1, {7: 1, 8: 1}) for arm in ARMS}

    def add_twenty() -> None:
        for _ in range(20):
            with state.begin() as connection:
                add_counts(connection, "s", increments)

    threads = [threading.Thread(target=add_twenty) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with state.begin() as connection:
        assert read_counts(connection, "s") == {arm: ArmTotals(80, 80, 80, {7: 80, 8: 80}) for arm in ARMS}


def test_what_was_added_since_earlier_totals_leaves_out_the_buckets_that_did_not_grow() -> None:
    later, earlier = ArmTotals(9, 3, 2, {4: 5, 5: 1}), ArmTotals(6, 3, 1, {4: 5})
    assert later.since(earlier) == ArmTotals(3, 0, 1, {5: 1})
    assert later.since(later) == ArmTotals()
