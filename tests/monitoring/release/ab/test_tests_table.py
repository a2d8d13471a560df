"""The rows of A/B tests: at most one runs, none beside a gradual release, and the first verdict stands."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from monitoring.release.ab.tests_table import begin_test, end_test, is_interrupted, keep_verdict, newest_tests, running_test
from monitoring.release.runs import ReleaseRun, begin_run, end_run
from pipeline.errors import RefusedError
from serving.release.release_table import promote
from serving.release.routing import set_routing
from state.tables import ab_tests
from tests.monitoring.release.ab.ab_story import BEGAN, RULE, begin, publish_two
from tests.state.old_schema import downgrade

FIRST, LATER = {"answer": "B", "sentence": "B is better"}, {"answer": "A", "sentence": "A is better"}


def release_of(version: int) -> ReleaseRun:
    return ReleaseRun(7, version, 1, "s", "shadow", 0, "none", {}, BEGAN, BEGAN, None, None, None, None, [], None)


def test_a_test_begins_over_the_routing_as_it_stands(state: sa.Engine) -> None:
    with state.begin() as connection:
        publish_two(connection, 0.25)
        test = begin(connection, caller="shop", is_lower_better=True)
        assert running_test(connection) == test
        assert not is_interrupted(connection, test)
    assert (test.champion, test.challenger, test.weight, test.weight_before) == (1, 2, 0.25, 0.0)
    assert (test.metric, test.caller, test.is_lower_better, test.rule.margin) == ("outcome", "shop", True, 0.05)
    assert (test.began_at, test.ended_at, test.verdict) == (BEGAN, None, None)


def test_a_second_test_is_refused_until_the_first_has_ended(state: sa.Engine) -> None:
    with state.begin() as connection:
        publish_two(connection)
        first = begin(connection)
    with pytest.raises(RefusedError, match=f"A/B test {first.id} runs already"), state.begin() as connection:
        begin(connection)
    with state.begin() as connection:
        assert end_test(connection, first.id, FIRST, BEGAN + 60)
        second = begin(connection)
        assert [test.id for test in newest_tests(connection, 5)] == [second.id, first.id]


def test_of_tests_that_begin_at_the_same_moment_one_begins(state: sa.Engine) -> None:
    with state.begin() as connection:
        publish_two(connection)

    def start(_number: int) -> bool:
        try:
            with state.begin() as connection:
                begin_test(connection, RULE, weight_before=0.0, at=BEGAN)
        except RefusedError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(start, range(6))) == 1


def test_a_test_is_refused_while_a_gradual_release_runs(state: sa.Engine) -> None:
    with state.begin() as connection:
        publish_two(connection)
        begin_run(connection, release_of(2), lambda _connection: None)
    with pytest.raises(RefusedError, match="a gradual release of version 2 runs"), state.begin() as connection:
        begin(connection)
    with state.begin() as connection:
        end_run(connection, 7, lambda _connection: None, outcome="aborted", reason="a person", at=BEGAN)
        assert begin(connection).challenger == 2


def test_the_first_verdict_stands_and_an_end_comes_once(state: sa.Engine) -> None:
    with state.begin() as connection:
        publish_two(connection)
        test = begin(connection)
        keep_verdict(connection, test.id, FIRST)
        keep_verdict(connection, test.id, LATER)
        assert end_test(connection, test.id, LATER, BEGAN + 60)
        assert not end_test(connection, test.id, LATER, BEGAN + 90)
        keep_verdict(connection, test.id, LATER)
        (ended,) = newest_tests(connection, 1)
    assert (ended.verdict, ended.ended_at) == (FIRST, BEGAN + 60)


def test_a_test_that_ends_without_a_verdict_keeps_its_last_look(state: sa.Engine) -> None:
    with state.begin() as connection:
        publish_two(connection)
        test = begin(connection)
        end_test(connection, test.id, {"answer": "not yet"}, BEGAN + 60)
        assert newest_tests(connection, 1)[0].verdict == {"answer": "not yet"}
        assert running_test(connection) is None


def test_another_share_and_another_champion_interrupt_a_test(state: sa.Engine) -> None:
    with state.begin() as connection:
        publish_two(connection)
        test = begin(connection)
        set_routing(connection, challenger_weight=0.5, shadow_share=1.0)
        assert not is_interrupted(connection, test)  # copies change no arm
        set_routing(connection, challenger_weight=0.2, shadow_share=0.0)
        assert is_interrupted(connection, test)
        set_routing(connection, challenger_weight=0.5, shadow_share=0.0)
        assert not is_interrupted(connection, test)
        promote(connection, 2)
        assert is_interrupted(connection, test)


def test_a_database_of_an_earlier_release_has_no_tests(state: sa.Engine) -> None:
    downgrade(state, "0009")
    with state.begin() as connection:
        assert newest_tests(connection, 5) == []
        assert not sa.inspect(connection).has_table(ab_tests.name)
