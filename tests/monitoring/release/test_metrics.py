"""Metrics say where a release stands, and how the last one ended."""

from prometheus_client import CollectorRegistry

from monitoring.release.evidence import ReleaseEvidence
from monitoring.release.metrics import ReleaseMetrics
from monitoring.release.runs import first_run
from monitoring.release.verdicts.guardrails import GUARDRAILS, first_guardrails
from monitoring.release.verdicts.shadow import PairedEvidence
from pipeline.params import Params
from serving.arm_counts import ArmTotals


def test_a_running_release_shows_its_evidence_and_its_end_replaces_it(params: Params) -> None:
    registry = CollectorRegistry()
    metrics = ReleaseMetrics(registry)
    evidence = ReleaseEvidence(
        PairedEvidence(100, 9, 5, 4),
        first_guardrails(PairedEvidence(100, 9), params.release),
        challenger=ArmTotals(70),
        rung_answered=(20, 0),
        waiting=3,
    )
    run = first_run(7, 2, 1, "salt", 50.0)._replace(stage="canary", rung=1, evidence=evidence.to_json())

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"evergreen_release_{name}", {"version": "2", **labels})

    metrics.show(run, params.release)
    assert registry.get_sample_value("evergreen_release_running") == 1
    assert value("stage_info", champion="1", stage="canary") == 1
    assert (value("challenger_share"), value("labels"), value("texts_without_label")) == (0.05, 9, 3)
    assert value("step_answers", arm="challenger") == 50
    assert [value("log_threshold", test=name) is not None for name in ("worse", *GUARDRAILS)] == [True] * 7
    metrics.show(run._replace(stage="ended", outcome="rolled_back", broken="latency", ended_at=90.0), params.release)
    assert registry.get_sample_value("evergreen_release_running") == 0
    assert value("challenger_share") is None and value("log_e", test="latency") == 0  # the alert on its end tells the evidence
    assert value("ended_timestamp_seconds", champion="1", outcome="rolled_back", broken="latency") == 90.0
    metrics.show(None, params.release)
    assert value("ended_timestamp_seconds", champion="1", outcome="rolled_back", broken="latency") is None
