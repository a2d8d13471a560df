"""The plan for a machine with little room: which one is chosen from what there is, and what it costs."""

import pytest

from pipeline.params import Params
from serving.release.plan.room_plan import Room, RoomPlan, plan_room

MIB = 2**20
ROOMY = Room("cpu", 8000 * MIB, 8000 * MIB, 400 * MIB, 3.0, 0.01, 0.01)
CROWDED_GPU = Room("gpu", 300 * MIB, 8000 * MIB, 400 * MIB, 3.0, 0.04, 0.002)


def plan(params: Params, room: Room, requests_per_s: float = 10.0, deadline_s: float = 2.0) -> RoomPlan:
    return plan_room(room, params.release, requests_per_s=requests_per_s, deadline_s=deadline_s)


def test_with_room_and_time_for_both_a_release_costs_no_downtime(params: Params) -> None:
    chosen = plan(params, ROOMY)
    assert (chosen.how, chosen.downtime_s, chosen.downtime_back_s) == ("side_by_side", 0.0, 0.0)
    assert (chosen.shadow_share, chosen.largest_share) == (params.release.shadow_share, params.release.shares[-1])


def test_with_room_for_both_and_time_for_one_copies_take_what_callers_leave(params: Params) -> None:
    chosen = plan(params, ROOMY, requests_per_s=50.0)
    assert (chosen.how, chosen.downtime_s) == ("time_sharing", 0.0)
    assert 50.0 * 0.01 * (1 + chosen.shadow_share) == pytest.approx(0.7)
    assert "the release takes longer" in chosen.why[1]


def test_a_busy_machine_still_copies_a_few_texts(params: Params) -> None:
    chosen = plan(params, ROOMY, requests_per_s=1000.0)
    assert chosen.how == "time_sharing"
    assert chosen.shadow_share == 0.01


def test_a_full_accelerator_leaves_the_challenger_the_processor(params: Params) -> None:
    chosen = plan(params, CROWDED_GPU)
    assert (chosen.how, chosen.downtime_s) == ("cpu_canary", 0.0)  # the processor stands in while the accelerator changes over
    assert chosen.largest_share == params.release.shares[-1]


def test_a_processor_that_cannot_carry_everybody_limits_the_share_and_costs_downtime(params: Params) -> None:
    chosen = plan(params, CROWDED_GPU, requests_per_s=70.0)
    assert (chosen.how, chosen.downtime_s, chosen.downtime_back_s) == ("cpu_canary", 3.0, 3.0)
    assert chosen.largest_share == pytest.approx(0.25)
    assert chosen.shadow_share == pytest.approx(0.25)


def test_a_processor_that_is_too_slow_for_the_deadline_is_no_canary(params: Params) -> None:
    assert plan(params, CROWDED_GPU, deadline_s=0.06).how == "recreate"


@pytest.mark.parametrize(
    "room",
    [ROOMY._replace(device_free=450 * MIB, memory_free=450 * MIB), CROWDED_GPU._replace(memory_free=450 * MIB)],
    ids=["processor", "accelerator"],
)
def test_with_room_for_one_a_version_replaces_the_other_at_the_price_of_its_load(params: Params, room: Room) -> None:
    chosen = plan(params, room)
    assert (chosen.how, chosen.downtime_s, chosen.downtime_back_s) == ("recreate", 3.0, 3.0)
    assert (chosen.shadow_share, chosen.largest_share) == (0.0, 0.0)
    assert "3.0 s without an answer" in chosen.why[1]


def test_without_traffic_there_is_time_for_everything(params: Params) -> None:
    assert plan(params, ROOMY, requests_per_s=0.0).how == "side_by_side"
    assert plan(params, CROWDED_GPU, requests_per_s=0.0).downtime_s == 0.0
