"""Panels of retraining: what the receiver hears, what the controller decides, how its retrains go."""

from monitoring.alert_rules.panel import PERIOD, Panel
from pipeline.params import Params


def retraining(_params: Params) -> list[Panel]:
    """From the alert heard to how the retrain ended."""
    own = "evergreen_retrain_"
    took = f"rate({own}step_seconds_sum[1h]) / rate({own}step_seconds_count[1h])"
    slow = f"histogram_quantile(0.99, sum by (le) (rate({own}webhook_seconds_bucket[{PERIOD}])))"
    return [
        Panel("Alerts heard", "none", {"{{kind}}": f"sum by (kind) (increase({own}alerts_total[{PERIOD}]))"}),
        Panel(
            "Webhooks: waiting, refused, not kept",
            "none",
            {
                "waiting": f"{own}webhooks_waiting",
                "refused: {{reason}}": f"increase({own}webhooks_refused_total[{PERIOD}])",
                "not kept": f"increase({own}receiver_failures_total[{PERIOD}])",
                "alerts cut off": f"increase({own}alerts_truncated_total[{PERIOD}])",
            },
        ),
        Panel("From webhook to answer, P99", "s", {"receiver": slow}),
        Panel("Alerts that wait for a decision", "none", {"{{reason}}": f"sum by (reason) ({own}waiting_alerts)"}),
        Panel(
            "Decisions",
            "none",
            {"{{verdict}}: {{reason}}": f"sum by (verdict, reason) (increase({own}decisions_total[{PERIOD}]))"},
        ),
        Panel("Of a day's compute spent", "percentunit", {"": f"max({own}budget_spent_ratio)"}, limit=1),
        Panel("Retrain at work", "none", {"": f"max({own}running)"}, 6),
        Panel("A step takes, 1 h", "s", {"{{step}}": took}, 6),
        Panel(
            "Retrains that ended; attempts that failed",
            "none",
            {
                "{{state}} at {{step}}": f"sum by (state, step) (increase({own}ended_total[{PERIOD}])) > 0",
                "failed: {{step}}": f"sum by (step) (increase({own}step_failures_total[{PERIOD}])) > 0",
            },
            6,
        ),
        Panel(
            "Since the controller last looked; faults it survived",
            "none",
            {
                "seconds": f"time() - max({own}controller_last_success_timestamp_seconds)",
                "{{part}}": f"increase({own}controller_failures_total[{PERIOD}])",
                "MLflow runs closed": f"increase({own}orphans_closed_total[{PERIOD}])",
            },
            6,
        ),
    ]
