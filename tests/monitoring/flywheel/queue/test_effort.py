"""What labels cost in people's time."""

from monitoring.flywheel.queue.effort import Answered, Effort, effort_of


def test_time_between_showing_and_answering_is_counted_once() -> None:
    """Texts that are labelled together share it, a pause counts two minutes, and skipped texts cost time too."""
    single = [Answered("ana", "label", 0.0, 10.0), Answered("ana", "skip", 10.0, 16.0)]
    assert effort_of(single) == Effort(1, 16.0)
    together = [Answered("ana", "label", 20.0, 50.0)] * 10
    assert effort_of([*single, *together]) == Effort(11, 46.0)
    assert effort_of([Answered("ana", "label", 0.0, 9999.0)]) == Effort(1, 120.0)
    side_by_side = [Answered(name, "verify", 0.0, 8.0) for name in ("ana", "ben")]
    assert effort_of(side_by_side) == Effort(2, 16.0)
    assert effort_of([]).seconds_each == 0
