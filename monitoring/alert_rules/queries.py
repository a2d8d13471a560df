"""Queries that several readers of Prometheus share: the Grafana dashboard and the console."""

from collections.abc import Sequence

ESTIMATED, LABELLED = "evergreen_accuracy_estimate_ratio", "evergreen_accuracy_labelled_ratio"
REFERENCE = "evergreen_accuracy_reference_ratio"
LOG_E, LOG_E_THRESHOLD = "evergreen_drift_log_e", "evergreen_drift_log_e_threshold"
FOR_CALLERS = 'role!="shadow"'
EXPECTED_ABSTENTIONS = "evergreen_abstention_expected_ratio"
CHAMPION = "evergreen_champion_version"
FIRING = 'ALERTS{alertstate="firing",severity!="none"}'


def evidence(log_e: str = LOG_E, threshold: str = LOG_E_THRESHOLD) -> str:
    """Return the evidence on each signal over its threshold; 1 is an alarm."""
    return f"{log_e} / on (signal) group_left () {threshold}"


def predictions_per_second(period: str) -> str:
    """Return the rate of predictions by version and role."""
    return f"sum by (version, role) (rate(evergreen_predictions_total[{period}]))"


def abstained_share(period: str, by: Sequence[str] = ("version",), roles: str = FOR_CALLERS) -> str:
    """Return the share of texts that got no label; nothing for a version that never abstains."""
    abstained, all_texts = (
        f"sum by ({', '.join(by)}) (rate(evergreen_{name}_total{{{roles}}}[{period}]))" for name in ("abstentions", "predictions")
    )
    return f"{abstained} / {all_texts}"


def latency_quantile(q: float, period: str, by: Sequence[str] = ()) -> str:
    """Return a quantile of the time from request to answer, in seconds."""
    return f"histogram_quantile({q}, sum by ({', '.join((*by, 'le'))}) (rate(evergreen_prediction_seconds_bucket[{period}])))"
