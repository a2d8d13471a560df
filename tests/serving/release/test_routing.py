"""Which version and which arm a unit belongs to, and the changes of the release table behind it."""

import pytest
import sqlalchemy as sa

from pipeline.errors import InputError
from serving.release.release_table import add_release, end_hold, promote, roles, take_back, versions
from serving.release.routing import NO_ROUTES, Routes, choose_arm, read_routes, set_routing

UNITS = [f"unit {number}" for number in range(4000)]


def arms(weight: float, salt: str = "salt") -> dict[str, str]:
    """Return the arm of every unit."""
    routes = Routes(1, 1, 2, weight, 0.0, salt)
    return {unit: choice.arm for unit in UNITS if (choice := choose_arm(routes, unit))}


@pytest.mark.parametrize("weight", [0.01, 0.05, 0.25, 0.5])
def test_challenger_and_baseline_have_equal_shares_of_units(weight: float) -> None:
    chosen = list(arms(weight).values())
    for arm in ("challenger", "baseline"):
        assert chosen.count(arm) / len(UNITS) == pytest.approx(weight, abs=0.025)


def test_the_baseline_is_answered_by_the_champion() -> None:
    routes = Routes(1, 1, 2, 0.5, 0.0, "salt")
    assert {choose_arm(routes, unit) for unit in UNITS} == {(2, "challenger"), (1, "baseline")}


def test_a_growing_share_only_adds_units_to_both_arms() -> None:
    small, large = arms(0.05), arms(0.25)
    for arm in ("challenger", "baseline"):
        assert {unit for unit in UNITS if small[unit] == arm} < {unit for unit in UNITS if large[unit] == arm}


def test_another_release_has_other_units_first() -> None:
    first, second = arms(0.05), arms(0.05, "another salt")
    both = [unit for unit in UNITS if first[unit] == second[unit] == "challenger"]
    assert len(both) < len(UNITS) * 0.05 / 4


def test_without_a_share_everybody_is_the_champions() -> None:
    assert set(arms(0.0).values()) == {"champion"}
    assert choose_arm(Routes(1, 1, None, 0.5, 0.0, "salt"), "unit") == (1, "champion")
    assert choose_arm(NO_ROUTES, "unit") is None


def test_the_previous_champion_stays_loaded_while_it_is_held() -> None:
    routes = Routes(1, 2, 3, 0.0, 0.0, "salt", previous=1, keep_previous_until=100.0)
    assert (routes.held(99.0), routes.held(100.0)) == (1, None)
    assert (routes.loaded(99.0), routes.loaded(100.0)) == ({1, 2}, {2})
    assert routes._replace(shadow_share=1.0).loaded(99.0) == {1, 2, 3}


def test_a_promotion_holds_the_champion_before_it_and_a_repeated_one_changes_nothing(state: sa.Engine) -> None:
    with state.begin() as connection:
        add_release(connection, 1, "a")
        add_release(connection, 2, "b")
        promote(connection, 2, 500.0)
        once = read_routes(connection)
        assert (once.previous, once.keep_previous_until) == (1, 500.0)
        promote(connection, 2, 900.0)
        assert read_routes(connection) == once


def test_a_challenger_that_is_taken_back_retires_and_the_champion_gets_all_units(state: sa.Engine) -> None:
    with state.begin() as connection:
        for version, digest in enumerate("abc", start=1):
            add_release(connection, version, digest)
            promote(connection, version, 500.0) if version == 2 else None
        before = set_routing(connection, challenger_weight=0.25, shadow_share=1.0)
        assert take_back(connection, 3) == "challenger"
        assert roles(connection) == {"champion": 2, "previous": 1}
        after = read_routes(connection)
        assert (after.challenger_weight, after.shadow_share, after.keep_previous_until) == (0.0, 0.0, 500.0)
        assert after.revision > before.revision


def test_a_champion_that_is_taken_back_leaves_its_place_to_the_previous_one(state: sa.Engine) -> None:
    with state.begin() as connection:
        add_release(connection, 1, "a")
        add_release(connection, 2, "b")
        promote(connection, 2, 500.0)
        assert take_back(connection, 2) == "champion"
        assert versions(connection) == {2: "retired", 1: "champion"}
        assert read_routes(connection).held(0.0) is None


def test_what_was_taken_back_before_stays_so_and_nothing_changes(state: sa.Engine) -> None:
    with state.begin() as connection:
        add_release(connection, 1, "a")
        add_release(connection, 2, "b")
        take_back(connection, 2)
        once = read_routes(connection)
        assert take_back(connection, 2) == "retired"
        assert read_routes(connection) == once


def test_a_previous_champion_that_is_taken_back_does_not_disturb_a_release_that_runs(state: sa.Engine) -> None:
    with state.begin() as connection:
        add_release(connection, 1, "a")
        add_release(connection, 2, "b")
        promote(connection, 2)
        add_release(connection, 3, "c")
        running = set_routing(connection, challenger_weight=0.25, shadow_share=1.0)
        assert take_back(connection, 1) == "previous"
        after = read_routes(connection)
        assert (after.challenger, after.challenger_weight, after.salt) == (3, 0.25, running.salt)
        assert after.previous is None


def test_a_champion_without_a_previous_one_cannot_be_taken_back(state: sa.Engine) -> None:
    with state.begin() as connection:
        add_release(connection, 1, "a")
        with pytest.raises(InputError, match="no previous champion"):
            take_back(connection, 1)
        with pytest.raises(InputError, match="never published"):
            take_back(connection, 7)
        assert roles(connection) == {"champion": 1}


def test_a_hold_that_has_been_renewed_is_not_ended(state: sa.Engine) -> None:
    with state.begin() as connection:
        add_release(connection, 1, "a")
        add_release(connection, 2, "b")
        promote(connection, 2, 500.0)
        end_hold(connection, 400.0)
        assert read_routes(connection).keep_previous_until == 500.0
        end_hold(connection, 500.0)
        assert read_routes(connection).keep_previous_until is None
