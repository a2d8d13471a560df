"""Cases of the alerts on drift, accuracy, retraining and monitoring: input series by minute, and the alerts that must fire.

`bridge_s` and `window_patience_s` are one hour. Values are in promtool's notation: `1x4` is five values, `stale` a failed scrape,
`_` a missing one.
"""

from typing import NamedTuple

Labels = dict[str, str]


class Case(NamedTuple):
    """One alert: its input series, and its firing instances by minute."""

    name: str
    alert: str
    series: dict[str, str]
    fires: dict[int, list[Labels]]  # minute → labels, without severity and area


WATCHED = {"evergreen_monitored_version": "3x200"}
THRESHOLD = {f'evergreen_drift_log_e_threshold{{signal="{name}"}}': "9.2x200" for name in ("input_sketch", "input_length")}
SKETCH = 'evergreen_drift_log_e{version="3",signal="input_sketch"}'
STATISTIC, LIMIT = (f'evergreen_drift_statistic{part}{{version="3",signal="input_sketch"}}' for part in ("", "_threshold"))
WINDOW = {"evergreen_monitored_version": "3x200", LIMIT: "0.0128x200"}
V3, V3_SKETCH = {"version": "3"}, {"version": "3", "signal": "input_sketch"}
EVALUATED = WATCHED | THRESHOLD
CONTRACT = WATCHED | {'evergreen_accuracy_reference_ratio{version="3"}': "0.94x200"}
UPPER = 'evergreen_accuracy_{}_ratio{{version="3",bound="upper"}}'
LABELS = 'evergreen_accuracy_labels{version="3"}'
REFERENCE = 'evergreen_reference_rows{version="3"}'

DRIFT = [
    Case("above its threshold", "EvergreenDrift", {**EVALUATED, SKETCH: "1x4 9.3x20"}, {4: [], 5: [V3_SKETCH], 20: [V3_SKETCH]}),
    Case("at its threshold", "EvergreenDrift", {**EVALUATED, SKETCH: "9.2x20"}, {20: []}),
    Case("below it again", "EvergreenDrift", {**EVALUATED, SKETCH: "20x5 3x20"}, {5: [V3_SKETCH], 6: []}),
    Case("the monitor dies", "EvergreenDrift", {**EVALUATED, SKETCH: "20x5 stale _x60"}, {6: [V3_SKETCH], 60: [V3_SKETCH]}),
    Case(
        "scrapes are missing, then the drift is over",
        "EvergreenDrift",
        {**EVALUATED, SKETCH: "20x5 _x40 1x5"},
        {45: [V3_SKETCH], 46: []},
    ),
    Case(
        "no value for longer than bridge_s",
        "EvergreenDrift",
        {**EVALUATED, SKETCH: "20x5 stale _x90"},
        {64: [V3_SKETCH], 66: []},
    ),
    Case(
        "all series of the monitor go stale",
        "EvergreenDrift",
        {
            SKETCH: "20x5 stale _x60",
            "evergreen_monitored_version": "3x5 stale _x60",
            'evergreen_drift_log_e_threshold{signal="input_sketch"}': "9.2x5 stale _x60",
        },
        {5: [V3_SKETCH], 60: [V3_SKETCH]},
    ),
    Case(
        "another version is watched",
        "EvergreenDrift",
        {**THRESHOLD, SKETCH: "20x5 stale _x20", "evergreen_monitored_version": "3x5 4x20"},
        {5: [V3_SKETCH], 6: []},
    ),
    Case(
        "one of two signals",
        "EvergreenDrift",
        {**EVALUATED, SKETCH: "20x9", 'evergreen_drift_log_e{version="3",signal="input_length"}': "1x9"},
        {9: [V3_SKETCH]},
    ),
    Case(
        "a window above its threshold", "EvergreenWindowDrift", {**WINDOW, STATISTIC: "0.01x4 0.0213x20"}, {4: [], 5: [V3_SKETCH]}
    ),
    Case(
        "the next window is below it", "EvergreenWindowDrift", {**WINDOW, STATISTIC: "0.0213x4 0.01x20"}, {4: [V3_SKETCH], 5: []}
    ),
    Case("a window at its threshold", "EvergreenWindowDrift", {**WINDOW, STATISTIC: "0.0128x9"}, {9: []}),
    Case("an infinite threshold", "EvergreenWindowDrift", {**WATCHED, LIMIT: "+Inf +Inf +Inf", STATISTIC: "9x3"}, {2: []}),
    Case("a dead monitor's window", "EvergreenWindowDrift", {**WINDOW, STATISTIC: "0.0213x4 stale _x50"}, {40: [V3_SKETCH]}),
    Case(
        "a window of a version no longer watched",
        "EvergreenWindowDrift",
        {**WINDOW, STATISTIC: "0.0213x4 stale _x20", "evergreen_monitored_version": "3x5 4x20"},
        {5: [V3_SKETCH], 6: []},
    ),
    Case("no threshold is known", "EvergreenDrift", {**WATCHED, SKETCH: "20x9"}, {9: []}),
    Case("not a number", "EvergreenDrift", {**EVALUATED, SKETCH: "NaN NaN NaN NaN"}, {3: []}),
    Case(
        "an old reference",
        "EvergreenReferenceOld",
        {**WATCHED, 'evergreen_reference_age_seconds{version="3"}': "7776001x9"},
        {9: [V3]},
    ),
    Case(
        "a recent reference",
        "EvergreenReferenceOld",
        {**WATCHED, 'evergreen_reference_age_seconds{version="3"}': "7776000x9"},
        {9: []},
    ),
]
HARM = 'evergreen_harm_log_e{version="3"}'
QUALITY = [
    Case("harm", "EvergreenAccuracyHarm", {**WATCHED, HARM: "1x3 4.7x5 1x5"}, {3: [], 4: [V3], 9: [V3], 10: []}),
    Case("no harm", "EvergreenAccuracyHarm", {**WATCHED, HARM: "4.6x5"}, {5: []}),
    Case("harm, and the monitor dies", "EvergreenAccuracyHarm", {**WATCHED, HARM: "4.7x5 stale _x60"}, {60: [V3]}),
    Case(
        "the upper bound is below the contract",
        "EvergreenEstimatedAccuracyLow",
        {**CONTRACT, UPPER.format("estimate"): "0.91x9 0.95x9"},
        {1: [], 2: [V3], 9: [V3], 10: []},
    ),
    Case(
        "the upper bound equals the contract",
        "EvergreenEstimatedAccuracyLow",
        {**CONTRACT, UPPER.format("estimate"): "0.921x9"},
        {9: []},
    ),
    Case("no reference is known", "EvergreenEstimatedAccuracyLow", {**WATCHED, UPPER.format("estimate"): "0.5x9"}, {9: []}),
    Case(
        "below the contract, and the monitor dies",
        "EvergreenEstimatedAccuracyLow",
        {**CONTRACT, UPPER.format("estimate"): "0.91x9 stale _x60"},
        {60: [V3]},
    ),
    Case(
        "enough labels",
        "EvergreenLabelledAccuracyFallen",
        {**CONTRACT, UPPER.format("labelled"): "0.9x19", LABELS: "29x9 30x9"},
        {9: [], 12: [V3]},
    ),
    Case(
        "labelled accuracy within the contract",
        "EvergreenLabelledAccuracyFallen",
        {**CONTRACT, UPPER.format("labelled"): "0.93x19", LABELS: "500x19"},
        {19: []},
    ),
]

MONITOR, TRITON = (f'up{{job="evergreen-{name}",instance="{name}:1"}}' for name in ("monitor", "triton"))
SUCCESS = 'evergreen_monitor_last_success_timestamp_seconds{job="evergreen-monitor",instance="monitor:1"}'
SKIPPED = 'evergreen_monitor_segments_skipped_total{job="evergreen-monitor",instance="monitor:1"}'
LAG = 'evergreen_monitor_lag_seconds{job="evergreen-monitor",instance="monitor:1"}'
MONITOR_INSTANCE = {"job": "evergreen-monitor", "instance": "monitor:1"}
FILL = 'evergreen_window_fill_ratio{version="3"}'
KNOWN = EVALUATED | {SKETCH: "1x200", HARM: "1x200", MONITOR: "1x200"}
ENDED = 'evergreen_retrain_ended_total{version="3",state="%s",step="%s"}'
DECISION = (
    'evergreen_retrain_decision_info{version="3",state="%s",decided="A retrain runs.",next_step="Follow it",command="status"}'
)
LAST_SUCCESS = "evergreen_retrain_controller_last_success_timestamp_seconds"
REFUSED = 'evergreen_refused_total{job="evergreen-receiver",reason="full"}'
RETRAIN = [
    Case(
        "one retrain fails",
        "EvergreenRetrainFailed",
        {ENDED % ("failed", "gate"): "0x9 1x120", ENDED % ("failed", "promote"): "0x130"},
        {9: [], 10: [{"step": "gate"} | V3], 60: [{"step": "gate"} | V3], 100: []},
    ),
    Case("one retrain succeeds", "EvergreenRetrainFailed", {ENDED % ("done", "promote"): "0x9 1x20"}, {12: []}),
    Case("one candidate is refused", "EvergreenCandidateRefused", {ENDED % ("refused", "gate"): "0x9 1x20"}, {9: [], 10: [V3]}),
    Case(
        "a retrain runs", "EvergreenRetrainRunning", {DECISION % "running": "_x4 1x9 stale"}, {3: [], 5: [V3], 12: [V3], 15: []}
    ),
    Case("an alert waits for a retrain", "EvergreenRetrainRunning", {DECISION % "waiting": "1x9"}, {9: []}),
    Case("a failed retrain is not a refusal", "EvergreenCandidateRefused", {ENDED % ("failed", "gate"): "0x9 1x20"}, {12: []}),
    Case("the controller runs", "EvergreenControllerStale", {LAST_SUCCESS: "0+60x60"}, {60: []}),
    Case("the controller stops", "EvergreenControllerStale", {LAST_SUCCESS: "0+60x9 stale _x40"}, {15: [], 17: [{}], 40: [{}]}),
    Case("there was never a controller", "EvergreenControllerStale", {}, {30: []}),
    Case("no new refusals", "EvergreenAlertsNotTaken", {REFUSED: "5x30"}, {20: []}),
    Case(
        "some webhooks are refused", "EvergreenAlertsNotTaken", {REFUSED: "5x9 8x40"}, {11: [], 12: [{"reason": "full"}], 30: []}
    ),
]
ROUND, ROUNDS_FAILED = "evergreen_flywheel_last_success_timestamp_seconds", "evergreen_flywheel_failures_total"
MONITORING = [
    Case("always", "EvergreenWatchdog", {}, {0: [{}], 1: [{}], 90: [{}]}),
    Case("the monitor stops", "EvergreenMonitorStale", {SUCCESS: "0+60x9 540x30"}, {9: [], 15: [], 17: [{}], 39: [{}]}),
    Case("the monitor runs", "EvergreenMonitorStale", {SUCCESS: "0+60x60"}, {60: []}),
    Case("the monitor recovers", "EvergreenMonitorStale", {SUCCESS: "0+60x9 540x30 2400+60x9"}, {39: [{}], 42: []}),
    Case(
        "the monitor's series go stale",
        "EvergreenMonitorStale",
        {SUCCESS: "0+60x9 stale _x90"},
        {17: [{}], 68: [{}], 70: [{}], 90: [{}]},
    ),
    Case("there was never a monitor", "EvergreenMonitorStale", {}, {1: [], 3: [{}]}),
    Case("Prometheus pauses", "EvergreenMonitorStale", {SUCCESS: "0+60x9 _x20 1800+60x9"}, {29: [{}], 31: []}),
    Case(
        "the monitor does not answer",
        "EvergreenScrapeMissing",
        {MONITOR: "1x5 0x9", TRITON: "1x20"},
        {7: [], 9: [{"job": "evergreen-monitor"}]},
    ),
    Case("Triton is not scraped", "EvergreenScrapeMissing", {MONITOR: "1x20"}, {1: [], 5: [{"job": "evergreen-triton"}]}),
    Case("everything is scraped", "EvergreenScrapeMissing", {MONITOR: "1x20", TRITON: "1x20"}, {20: []}),
    Case("far behind", "EvergreenMonitorLagging", {LAG: "700x9 1x40"}, {9: [MONITOR_INSTANCE], 40: []}),
    Case("close behind", "EvergreenMonitorLagging", {LAG: "600x20"}, {20: []}),
    Case("a corrupt segment", "EvergreenSegmentsSkipped", {SKIPPED: "0x5 1x120"}, {5: [], 8: [MONITOR_INSTANCE], 110: []}),
    Case("no new corrupt segment", "EvergreenSegmentsSkipped", {SKIPPED: "3x20"}, {20: []}),
    Case("a window that never fills", "EvergreenWindowNeverFull", {**WATCHED, FILL: "0.3x90"}, {59: [], 61: [V3]}),
    Case(
        "a window that filled once",
        "EvergreenWindowNeverFull",
        {**WATCHED, FILL: "0.3x40 1 0.3x90"},
        {61: [], 100: [], 103: [V3]},
    ),
    Case(
        "no thresholds are exported",
        "EvergreenJudgementMissing",
        {name: values for name, values in KNOWN.items() if "threshold" not in name},
        {9: [{"metric": "evergreen_drift_log_e_threshold"}]},
    ),
    Case("everything is exported", "EvergreenJudgementMissing", KNOWN, {20: []}),
    Case("no reference", "EvergreenReferenceMissing", WATCHED, {1: [], 3: [V3], 60: [V3]}),
    Case("a reference", "EvergreenReferenceMissing", WATCHED | {REFERENCE: "900x60"}, {1: [], 60: []}),
    Case("the reference arrives", "EvergreenReferenceMissing", WATCHED | {REFERENCE: "_x9 900x60"}, {8: [V3], 10: []}),
    Case(
        "the reference of the previous version",
        "EvergreenReferenceMissing",
        {REFERENCE: "900x9 stale _x60", "evergreen_monitored_version": "3x9 4x60"},
        {9: [], 14: [{"version": "4"}]},
    ),
    Case(
        "no reference, and the monitor dies",
        "EvergreenReferenceMissing",
        {"evergreen_monitored_version": "3x9 stale _x60"},
        {9: [V3], 50: [V3]},
    ),
    Case("no monitor", "EvergreenJudgementMissing", {}, {20: []}),
    Case("a round nine days ago", "EvergreenFlywheelOverdue", {ROUND: "-777000x60"}, {10: [], 11: [], 13: [{}], 60: [{}]}),
    Case("a new round", "EvergreenFlywheelOverdue", {ROUND: "-777000x20 1000x60"}, {20: [{}], 21: []}),
    Case("the process dies", "EvergreenFlywheelOverdue", {ROUND: "-777000x20 stale _x60"}, {50: [{}]}),
    Case("one round fails", "EvergreenFlywheelOverdue", {ROUND: "0x99", ROUNDS_FAILED: "0x9 1x90"}, {60: []}),
    Case("every round fails", "EvergreenFlywheelOverdue", {ROUNDS_FAILED: "0+0.1x90"}, {9: [], 80: [{}]}),
    Case("there was never a round", "EvergreenFlywheelOverdue", {}, {30: []}),
]
