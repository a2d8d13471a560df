"""Panels of the Grafana dashboard on the newest gradual release."""

from monitoring.alert_rules.panels import Panel
from monitoring.alert_rules.releases import ENDED, LOG_E, LOG_THRESHOLD, STAGE, STAGE_BEGAN, WAITING
from pipeline.params import Params


def release_panels(params: Params) -> list[Panel]:
    """Return panels from the first copied text to the outcome."""
    return [
        Panel(
            "Evidence: log e-value over its threshold (1 decides)",
            "none",
            {"{{test}} v{{version}}": f"{LOG_E} / on (version, test) {LOG_THRESHOLD}"},
            12,
            limit=1,
        ),
        Panel(
            "Share of units that the new version answers", "percentunit", {"v{{version}}": "evergreen_release_challenger_share"}
        ),
        Panel(
            "Labels: used, waited for",
            "none",
            {"used v{{version}}": "evergreen_release_labels", "waited for v{{version}}": WAITING},
            limit=params.release.labels,
        ),
        Panel(
            "Answers at this step",
            "none",
            {"{{arm}} v{{version}}": "evergreen_release_step_answers"},
            limit=params.release.step_answers,
        ),
        Panel(
            "Texts that both answered; of them with other labels",
            "none",
            {"both v{{version}}": "evergreen_release_compared_texts", "differ v{{version}}": "evergreen_release_differing_texts"},
        ),
        Panel(
            "Since the last look",
            "s",
            {"v{{version}}": "time() - evergreen_release_last_look_timestamp_seconds"},
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
                "v{{version}} {{stage}}": STAGE,
                "v{{version}} {{outcome}} {{broken}}": f"{ENDED} > bool 0",
            },
        ),
    ]
