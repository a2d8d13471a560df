"""The Prometheus metrics of releases, exported by the controller from the newest release's row: any controller tells the same."""

from prometheus_client import CollectorRegistry, Gauge

from monitoring.release.evidence import ReleaseEvidence, shown_tests, standing_of
from monitoring.release.runs import ReleaseRun
from pipeline.params import ReleaseSettings


class ReleaseMetrics:
    """The gauges of releases; those of a running one vanish with its end, and its evidence stays until the next one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"evergreen_release_{name}", text, labels, registry=registry)

        self._running = gauge("running", "1 while a release runs")
        self._running.set(0)
        self._stage = gauge("stage_info", "1: stage of the running release", "version", "champion", "stage")
        self._stage_began = gauge("stage_began_timestamp_seconds", "Begin of its stage or step", "version")
        self._looked = gauge("last_look_timestamp_seconds", "Its last look", "version")
        self._share = gauge("challenger_share", "Share of units that the challenger answers", "version")
        self._answers = gauge("step_answers", "Answers at this step", "version", "arm")
        self._log_e = gauge("log_e", "Evidence of a test", "version", "test")
        self._threshold = gauge("log_threshold", "Evidence at which a test decides", "version", "test")
        self._compared = gauge("compared_texts", "Texts that both versions have answered", "version")
        self._differing = gauge("differing_texts", "Of them, with other labels", "version")
        self._labelled = gauge("labels", "Labels that the shadow's tests have used", "version")
        self._waiting = gauge("texts_without_label", "Texts for whose label the release waits", "version")
        self._ended = gauge("ended_timestamp_seconds", "End of the newest release", "version", "champion", "outcome", "broken")
        self._of_running = (
            *(self._stage, self._stage_began, self._looked, self._share, self._answers),
            *(self._compared, self._differing, self._labelled, self._waiting),
        )

    def show(self, run: ReleaseRun | None, settings: ReleaseSettings) -> None:
        """Export the newest release; None: there was none."""
        for gauge in (*self._of_running, self._log_e, self._threshold, self._ended):
            gauge.clear()
        self._running.set(run is not None and run.outcome is None)
        if run is None:
            return
        version, evidence = str(run.version), ReleaseEvidence.from_json(run.evidence)
        for test in shown_tests(evidence, settings):
            self._log_e.labels(version, test.name).set(test.log_e)
            self._threshold.labels(version, test.name).set(test.log_threshold)
        if run.outcome is not None:
            self._ended.labels(version, str(run.champion), run.outcome, run.broken or "none").set(run.ended_at or 0.0)
            return
        self._show_stage(run, evidence, settings)
        self._compared.labels(version).set(evidence.compared)
        self._differing.labels(version).set(evidence.differing)
        self._labelled.labels(version).set(evidence.shadow.differing)
        self._waiting.labels(version).set(evidence.waiting)

    def _show_stage(self, run: ReleaseRun, evidence: ReleaseEvidence, settings: ReleaseSettings) -> None:
        version, shares = str(run.version), settings.shares
        self._stage.labels(version, str(run.champion), run.stage).set(1)
        self._stage_began.labels(version).set(run.stage_began_at)
        self._looked.labels(version).set(run.looked_at or run.began_at)
        self._share.labels(version).set(0.0 if run.stage == "shadow" else shares[min(run.rung, len(shares) - 1)])
        standing = standing_of(run, evidence)
        self._answers.labels(version, "challenger").set(standing.answered)
        self._answers.labels(version, "baseline").set(standing.baseline_answered)
