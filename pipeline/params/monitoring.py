"""Sections that the people on call change: the monitor, alerts, retrains and the gate."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.params.section import Count, Fraction, Port, Positive, Section, Share


class Monitor(Section):
    """Windows, calibration of drift alarms, and the harm flag; the promise is false alarms per week over all signals."""

    poll_s: Positive
    batch_rows: Count
    late_s: Positive
    remembered_answers: Count
    windows_kept: Count
    window_rows: Annotated[int, Field(ge=2)]
    rows_per_unit: Count
    min_reference_rows: Annotated[int, Field(ge=2)]
    expected_rows_per_week: Positive
    false_alarms_per_week: Positive
    window_share: Fraction
    fit_share: Fraction
    null_draws: Annotated[int, Field(ge=100)]
    check_draws: Count
    check_level: Fraction
    cells: Annotated[int, Field(ge=8)]
    axes: Count
    kernel_features: Count
    shrinkage: Annotated[float, Field(gt=0)]
    ceiling: Annotated[float, Field(gt=1)]
    examples: Count
    words: Count
    seed: int
    tolerated_loss: Fraction
    harm_alpha: Fraction
    confidence: Fraction
    min_labels: Count


class Alerts(Section):
    """Thresholds of the alert rules, intervals of Prometheus and Alertmanager, and the destinations of notifications.

    `*_s` are seconds. `none` turns a destination off. Secrets are in files, and only the file's name is here.
    """

    host: str
    prometheus_port: Port
    alertmanager_port: Port
    inbox_port: Port
    console_port: Port
    console_session_s: Positive
    monitor_port: Port
    receiver_port: Port
    controller_port: Port
    flywheel_port: Port
    scrape_s: Count
    evaluate_s: Count
    resend_s: Count
    bridge_s: Count
    for_s: Count
    keep_firing_s: Count
    latency_limit_ms: Positive
    latency_share: Fraction
    answered_share: Fraction
    burn_fast: Positive
    burn_slow: Positive
    min_requests: Count
    refused_share: Fraction
    abstained_times: Annotated[float, Field(gt=1)]
    abstained_answers: Count
    abstained_window_s: Count
    queue_share: Fraction
    monitor_stale_s: Count
    monitor_lag_s: Count
    controller_stale_s: Count
    flywheel_overdue_s: Count
    reference_max_age_s: Count
    window_patience_s: Count
    process_cpu_cores: Positive
    process_memory_bytes: Count
    node_cpu_share: Fraction
    node_memory_share: Fraction
    gpu_share: Fraction
    gpu_memory_share: Fraction
    runbooks: str
    group_wait_s: Count
    group_interval_s: Count
    repeat_s: Count
    remember_s: Count
    switch_every_s: Count
    switch_overdue_s: Count
    switch_url: str
    inbox: Literal["here", "none"]
    console: Literal["here", "none"]
    inbox_messages: Count
    inbox_bytes: Count
    controller_url: str
    controller_token_file: str

    @field_validator("switch_overdue_s")
    @classmethod
    def _longer_than_a_healthy_heartbeat(cls, value: int, info: ValidationInfo) -> int:
        known = info.data
        slowest = sum(known.get(key, 0) for key in ("resend_s", "evaluate_s")) + 2 * known.get("switch_every_s", 0)
        if value <= slowest:
            sum_of = "resend_s + evaluate_s + 2 switch_every_s"
            raise ValueError(f"a healthy heartbeat can be {slowest} s old ({sum_of}); this must be longer")
        return value

    @field_validator("for_s")
    @classmethod
    def _shorter_than_alertmanager_forgets(cls, value: int, info: ValidationInfo) -> int:
        if value > 2 * info.data.get("resend_s", value):
            raise ValueError(
                "at most 2 resend_s: after a restart of Prometheus an alert must fire again before Alertmanager forgets it"
            )
        return value


class Retrain(Section):
    """Conditions under which an alert starts a retrain, and limits of its run. `*_s` are seconds."""

    poll_s: Positive
    settle_s: Annotated[float, Field(ge=0)]
    cooldown_s: Annotated[float, Field(ge=0)]
    patience_s: Positive
    budget_s: Positive
    min_labels: Count
    enough_labels: Count
    label_wait_s: Annotated[float, Field(ge=0)]
    disagreement: Annotated[float, Field(gt=0, le=1)]
    disagreement_within_s: Positive
    proposal_people: Count
    proposal_texts: Count
    feedback_reach_s: Positive
    lease_s: Positive
    attempts: Count
    retry_s: Annotated[float, Field(ge=0)]
    run_limit_s: Positive
    stop_within_s: Positive
    max_unseen: Count
    max_body_bytes: Count


class ReleaseSettings(Section):
    """How a version that has passed the gate reaches callers, and what takes it back. Shares are 0..1, `*_s` are seconds."""

    how: Literal["gradual", "at_once"]
    margin: Fraction
    false_rollbacks: Annotated[float, Field(gt=0, lt=0.5)]
    false_promotions: Annotated[float, Field(gt=0, lt=0.5)]
    shadow_share: Annotated[float, Field(gt=0, le=1)]
    labels: Count
    undecided: Literal["go_on", "refuse"]
    min_pairs: Count
    steps: Annotated[str, Field(pattern=r"^[\d.]+( [\d.]+)*$")]  # DVC cannot interpolate lists
    step_answers: Count
    slow_share: Annotated[float, Field(gt=0.05, lt=1)]
    failed_share: Fraction
    disagreement_growth: Fraction
    lost_accuracy: Fraction
    memory_growth: Annotated[float, Field(gt=1)]
    hold_s: Annotated[float, Field(ge=0)]
    patience_s: Positive
    poll_s: Positive
    examples: Count

    @field_validator("steps")
    @classmethod
    def _growing_shares(cls, value: str) -> str:
        shares = [float(share) for share in value.split()]
        if sorted(set(shares)) != shares or not 0 < shares[0] <= shares[-1] <= 0.5:
            raise ValueError("growing shares above 0, up to 0.5: the baseline gets as many units as the challenger")
        return value

    @property
    def shares(self) -> tuple[float, ...]:
        """Return the challenger's share of units at each step."""
        return tuple(float(share) for share in self.steps.split())


class AbSettings(Section):
    """How A/B tests share the traffic, and when they reach a verdict. Shares are 0..1."""

    share: Fraction
    margin: Positive
    alpha: Annotated[float, Field(gt=0, lt=0.5)]
    power: Annotated[float, Field(gt=0.5, lt=1)]
    min_units: Annotated[int, Field(ge=20)]
    expected_units: Count


class Labels(Section):
    """How many labellers a label needs, how labellers are measured, and how long their labels are kept."""

    new_text_people: Count
    overrule_people: Count
    control_share: Share
    min_control_answers: Count
    min_control_accuracy: Share
    min_class_accuracy: Share
    retention_s: Positive


class Flywheel(Section):
    """Which texts people are asked to label, how they are grouped, and how often. `*_s` are seconds."""

    every_s: Positive
    retry_s: Positive
    poll_s: Positive
    round_limit_s: Positive
    reach_s: Positive
    max_candidates: Count
    min_answers: Count
    low_margin: Fraction
    novel_share: Fraction
    clusters_per_root: Positive
    texts_per_cluster: Count
    max_clusters: Count
    same_cluster: Fraction
    sure: Fraction
    budget: Count
    least_return: Annotated[float, Field(ge=0)]
    compare_every_s: Positive
    compared_texts: Count
    confidence_gap: Fraction
    slower_times: Annotated[float, Field(ge=1)]
    few_labels: Count
    sure_share: Share
    audit_folds: Annotated[int, Field(ge=2)]
    seed: int


class Gate(Section):
    """Conditions for publishing a retrained candidate, alone and against the champion; shares and accuracies are 0..1."""

    min_accuracy: Share
    min_f1_macro: Share
    min_above_control: Annotated[float, Field(gt=-1, lt=1)]
    rescore_tolerance: Annotated[float, Field(ge=0, lt=1)]
    reference_tolerance: Annotated[float, Field(gt=0, lt=1)]
    max_miscalibration: Annotated[float, Field(gt=1)]
    margin: Fraction
    margin_alpha: Annotated[float, Field(gt=0, lt=0.5)]
    false_refusals: Annotated[float, Field(gt=0, lt=0.5)]
    undecided: Literal["pass", "refuse"]
    new_rows: Literal["better", "not_worse"]
    min_new_rows: Count
    new_alpha: Annotated[float, Field(gt=0, lt=0.5)]
    class_margin: Share
    max_overruled: Share
    max_moved: Share
    trigger_words: Count
    trigger_texts: Count
