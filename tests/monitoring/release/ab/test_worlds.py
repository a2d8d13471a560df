"""Equal arms in simulated worlds: a verdict at any of 100 looks is rare, where a test that peeks finds differences everywhere."""

import pytest

from tests.monitoring.release.ab.worlds import EQUAL, World, false_verdicts

REPEATS = 40


@pytest.mark.parametrize("world", EQUAL, ids=[world.name for world in EQUAL])
def test_equal_arms_rarely_get_a_verdict(world: World) -> None:
    found = false_verdicts(world._replace(outcomes=3000), REPEATS)
    assert found.ours <= 2 / REPEATS
    assert found.peeking >= 5 / REPEATS


def test_the_published_sequence_finds_rare_differences_that_do_not_exist_in_a_small_arm() -> None:
    found = false_verdicts(EQUAL[1]._replace(outcomes=3000), REPEATS)
    assert found.published > 5 / REPEATS
