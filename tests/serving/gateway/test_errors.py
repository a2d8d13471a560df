"""The cause of every 5xx is in the log, once a second for each cause."""

from structlog.testing import capture_logs

from serving.gateway.errors import FailureLog


def test_equal_causes_of_a_second_share_a_line_and_are_counted() -> None:
    times = iter([0.0, 0.5, 0.9, 0.95, 1.0, 1.1])
    failures = FailureLog(lambda: next(times))
    with capture_logs() as lines:
        for request in ("a", "b", "c"):
            failures.add("overloaded", "the queue is full", request)
        failures.add("triton_unavailable", "KeyError('probabilities')", "d")
        failures.add("overloaded", "the queue is full", "e")
        failures.add("overloaded", "the queue is full", "f")
    assert [(line["request_id"], line["cause"], line["others_since_last_line"]) for line in lines] == [
        ("a", "the queue is full", 0),
        ("d", "KeyError('probabilities')", 0),
        ("e", "the queue is full", 2),
    ]
