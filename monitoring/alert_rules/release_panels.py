"""Panels of the Grafana dashboard on the newest gradual release."""

from monitoring.alert_rules.panels import Panel
from monitoring.alert_rules.queries import evidence
from monitoring.alert_rules.releases import ENDED, LOG_E, LOG_E_THRESHOLD, STAGE_BEGAN, WAITING
from pipeline.params import Params


def release_panels(params: Params) -> list[Panel]:
    """Return panels from the first copied text to the outcome."""
    return [
        Panel(
            "Evidence: log e-value over its threshold (1 decides)",
            "none",
            {"{{test}} v{{version}}": evidence(LOG_E, LOG_E_THRESHOLD, "test")},
            12,
            limit=1,
        ),
        Panel(
            "Share of units that the new version answers", "percentunit", {"v{{version}}": "evergreen_release_challenger_ratio"}
        ),
        Panel(
            "Labels: used, waited for",
            "none",
            {"used v{{version}}": "evergreen_release_labels", "waited for v{{version}}": WAITING},
            limit=params.release.labels,
        ),
        Panel(
            "Since the stage began",
            "s",
            {"v{{version}}": f"time() - {STAGE_BEGAN}"},
            limit=params.release.patience_s,
        ),
        Panel(
            "Stage; outcome of the newest",
            "none",
            {
                "v{{version}} {{stage}}, wish {{wish}}": "evergreen_release_running",
                "v{{version}} {{outcome}} {{broken}}": f"{ENDED} > bool 0",
            },
        ),
    ]
