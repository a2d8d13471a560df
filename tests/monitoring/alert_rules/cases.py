"""What Prometheus sees, minute by minute, and what has to fire when, with `bridge_s` and `window_patience_s` of an hour.

Values in promtool's notation: `1x4` is five of them, `stale` a scrape that failed, `_` one that is missing.
"""

from typing import NamedTuple

Labels = dict[str, str]
ASKED = 'route="/v1/predict"'


class Case(NamedTuple):
    """One alert: the series it sees, and its firing instances by minute."""

    what: str
    alert: str
    series: dict[str, str]
    fires: dict[int, list[Labels]]  # minute → labels, without severity and area


WATCHED = {"evergreen_monitored_version": "3x200"}
THRESHOLD = {f'evergreen_drift_log_e_threshold{{signal="{name}"}}': "9.2x200" for name in ("input_sketch", "input_length")}
SKETCH = 'evergreen_drift_log_e{version="3",signal="input_sketch"}'
MEASURED, LIMIT = (f'evergreen_drift_statistic{part}{{version="3",signal="input_sketch"}}' for part in ("", "_threshold"))
WINDOW = {"evergreen_monitored_version": "3x200", LIMIT: "0.0128x200"}
V3, V3_SKETCH = {"version": "3"}, {"version": "3", "signal": "input_sketch"}
JUDGED = WATCHED | THRESHOLD
AGREED = WATCHED | {'evergreen_accuracy_reference_ratio{version="3"}': "0.94x200"}
UPPER = 'evergreen_accuracy_{}_ratio{{version="3",bound="upper"}}'
LABELS = 'evergreen_accuracy_labels{version="3"}'
REFERENCE = 'evergreen_reference_rows{version="3"}'

DRIFT = [
    Case("over its threshold", "EvergreenDrift", {**JUDGED, SKETCH: "1x4 9.3x20"}, {4: [], 5: [V3_SKETCH], 20: [V3_SKETCH]}),
    Case("just below it", "EvergreenDrift", {**JUDGED, SKETCH: "9.2x20"}, {20: []}),
    Case("below it again", "EvergreenDrift", {**JUDGED, SKETCH: "20x5 3x20"}, {5: [V3_SKETCH], 6: []}),
    Case("the monitor dies", "EvergreenDrift", {**JUDGED, SKETCH: "20x5 stale _x60"}, {6: [V3_SKETCH], 60: [V3_SKETCH]}),
    Case(
        "scrapes are missing, then it is over", "EvergreenDrift", {**JUDGED, SKETCH: "20x5 _x40 1x5"}, {45: [V3_SKETCH], 46: []}
    ),
    Case(
        "nothing is heard for longer than is bridged",
        "EvergreenDrift",
        {**JUDGED, SKETCH: "20x5 stale _x90"},
        {64: [V3_SKETCH], 66: []},
    ),
    Case(
        "all of the monitor dies",
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
        "each signal has its own",
        "EvergreenDrift",
        {**JUDGED, SKETCH: "20x9", 'evergreen_drift_log_e{version="3",signal="input_length"}': "1x9"},
        {9: [V3_SKETCH]},
    ),
    Case("a window over it", "EvergreenWindowDrift", {**WINDOW, MEASURED: "0.01x4 0.0213x20"}, {4: [], 5: [V3_SKETCH]}),
    Case("the next is not", "EvergreenWindowDrift", {**WINDOW, MEASURED: "0.0213x4 0.01x20"}, {4: [V3_SKETCH], 5: []}),
    Case("just at it", "EvergreenWindowDrift", {**WINDOW, MEASURED: "0.0128x9"}, {9: []}),
    Case("nothing reaches it", "EvergreenWindowDrift", {**WATCHED, LIMIT: "+Inf +Inf +Inf", MEASURED: "9x3"}, {2: []}),
    Case("a dead monitor's window", "EvergreenWindowDrift", {**WINDOW, MEASURED: "0.0213x4 stale _x50"}, {40: [V3_SKETCH]}),
    Case(
        "a window of another version",
        "EvergreenWindowDrift",
        {**WINDOW, MEASURED: "0.0213x4 stale _x20", "evergreen_monitored_version": "3x5 4x20"},
        {5: [V3_SKETCH], 6: []},
    ),
    Case("no threshold is known", "EvergreenDrift", {**WATCHED, SKETCH: "20x9"}, {9: []}),
    Case("the value is none", "EvergreenDrift", {**JUDGED, SKETCH: "NaN NaN NaN NaN"}, {3: []}),
    Case("old", "EvergreenReferenceOld", {**WATCHED, 'evergreen_reference_age_seconds{version="3"}': "7776001x9"}, {9: [V3]}),
    Case("not old", "EvergreenReferenceOld", {**WATCHED, 'evergreen_reference_age_seconds{version="3"}': "7776000x9"}, {9: []}),
]
HARM = 'evergreen_harm_log_e{version="3"}'
QUALITY = [
    Case("harm", "EvergreenAccuracyHarm", {**WATCHED, HARM: "1x3 4.7x5 1x5"}, {3: [], 4: [V3], 9: [V3], 10: []}),
    Case("no harm", "EvergreenAccuracyHarm", {**WATCHED, HARM: "4.6x5"}, {5: []}),
    Case("harm, and the monitor dies", "EvergreenAccuracyHarm", {**WATCHED, HARM: "4.7x5 stale _x60"}, {60: [V3]}),
    Case(
        "its upper bound is below",
        "EvergreenEstimatedAccuracyLow",
        {**AGREED, UPPER.format("estimate"): "0.91x9 0.95x9"},
        {1: [], 2: [V3], 9: [V3], 10: []},
    ),
    Case(
        "the bound is what was agreed", "EvergreenEstimatedAccuracyLow", {**AGREED, UPPER.format("estimate"): "0.921x9"}, {9: []}
    ),
    Case("no reference is known", "EvergreenEstimatedAccuracyLow", {**WATCHED, UPPER.format("estimate"): "0.5x9"}, {9: []}),
    Case(
        "below, and the monitor dies",
        "EvergreenEstimatedAccuracyLow",
        {**AGREED, UPPER.format("estimate"): "0.91x9 stale _x60"},
        {60: [V3]},
    ),
    Case(
        "labels enough",
        "EvergreenLabelledAccuracyFallen",
        {**AGREED, UPPER.format("labelled"): "0.9x19", LABELS: "29x9 30x9"},
        {9: [], 12: [V3]},
    ),
    Case(
        "by feedback as agreed",
        "EvergreenLabelledAccuracyFallen",
        {**AGREED, UPPER.format("labelled"): "0.93x19", LABELS: "500x19"},
        {19: []},
    ),
]


def traffic(*, within: str, asked: str = "0+120x400", failed: str = "") -> dict[str, str]:
    """Requests a minute, those within the limit, those that failed."""
    series = {
        f"evergreen_request_seconds_count{{{ASKED}}}": asked,
        f'evergreen_request_seconds_bucket{{{ASKED},le="0.1"}}': within,
        f'evergreen_request_seconds_bucket{{{ASKED},le="+Inf"}}': asked,
        f'evergreen_requests_total{{{ASKED},code="200"}}': asked,
    }
    return series | ({f'evergreen_requests_total{{{ASKED},code="503"}}': failed} if failed else {})


FAST, SLOW = {"severity": "critical"}, {"severity": "warning"}
EXPERIENCE = [
    Case("a third is slow", "EvergreenLatencyHigh", traffic(within="0+80x400"), {30: [FAST, SLOW]}),
    Case("a tenth is slow", "EvergreenLatencyHigh", traffic(within="0+108x400"), {380: [SLOW]}),
    Case("one in twenty is slow", "EvergreenLatencyHigh", traffic(within="0+114x400"), {380: []}),
    Case("few ask", "EvergreenLatencyHigh", traffic(within="0+0x400", asked="0+1x400"), {4: []}),
    Case("nobody asks", "EvergreenLatencyHigh", traffic(within="5x400", asked="9x400"), {100: []}),
    Case(
        "quick again",
        "EvergreenLatencyHigh",
        traffic(within="0+80x60 4800+120x400"),
        {60: [FAST, SLOW], 70: [FAST, SLOW], 90: [SLOW], 140: []},
    ),
    Case("a tenth fails", "EvergreenErrorsHigh", traffic(within="0+120x400", failed="0+12x400"), {30: [FAST, SLOW]}),
    Case("one in fifty fails", "EvergreenErrorsHigh", traffic(within="0+120x400", failed="0+2x400"), {380: []}),
    Case("none fails", "EvergreenErrorsHigh", traffic(within="0+120x400"), {380: []}),
    Case(
        "a slow version",
        "EvergreenVersionSlow",
        {
            'evergreen_prediction_seconds_bucket{version="3",role="champion",le="0.1"}': "0+40x60",
            'evergreen_prediction_seconds_bucket{version="3",role="champion",le="0.25"}': "0+60x60",
            'evergreen_prediction_seconds_bucket{version="3",role="champion",le="+Inf"}': "0+60x60",
            'evergreen_prediction_seconds_count{version="3",role="champion"}': "0+60x60",
            'evergreen_prediction_seconds_bucket{version="4",role="shadow",le="+Inf"}': "0+60x60",
            'evergreen_prediction_seconds_count{version="4",role="shadow"}': "0+60x60",
        },
        {20: [V3]},
    ),
    Case(
        "a quick version",
        "EvergreenVersionSlow",
        {
            'evergreen_prediction_seconds_bucket{version="3",role="champion",le="0.05"}': "0+60x60",
            'evergreen_prediction_seconds_bucket{version="3",role="champion",le="+Inf"}': "0+60x60",
            'evergreen_prediction_seconds_count{version="3",role="champion"}': "0+60x60",
        },
        {60: []},
    ),
    Case(
        "refused for one reason",
        "EvergreenRefusing",
        {
            **traffic(within="0+120x60", asked="0+120x60"),
            'evergreen_refused_total{reason="token"}': "0+24x60",
            'evergreen_refused_total{reason="body"}': "0+2x60",
        },
        {20: [{"reason": "token"}]},
    ),
    Case(
        "hardly refused",
        "EvergreenRefusing",
        {**traffic(within="0+120x60", asked="0+120x60"), 'evergreen_refused_total{reason="token"}': "0+10x60"},
        {20: []},
    ),
]

GATEWAY, MONITOR, TRITON = (f'up{{job="evergreen-{name}",instance="{name}:1"}}' for name in ("gateway", "monitor", "triton"))
AT = {"instance": "gateway:1"}
READY = 'evergreen_triton_ready{job="evergreen-gateway",instance="gateway:1"}'
WAITING = 'evergreen_waiting_texts{job="evergreen-gateway",instance="gateway:1"}'
DROPPED, UNSTORABLE = (f'evergreen_prediction_log_rows_{name}{{instance="gateway:1"}}' for name in ("dropped", "unstorable"))
ALL_OF = {"job": "evergreen-gateway"}
GATEWAY_OF = {"job": "evergreen-gateway", "instance": "gateway:1"}
CAPACITY = [
    Case("full", "EvergreenQueueFull", {WAITING: "0x5 500x20 0x30"}, {5: [], 12: [GATEWAY_OF], 50: []}),
    Case("half full", "EvergreenQueueFull", {WAITING: "256x20"}, {20: []}),
    Case("not ready", "EvergreenTritonNotReady", {READY: "1x5 0x9 1x9"}, {7: [], 10: [GATEWAY_OF], 16: []}),
    Case("ready", "EvergreenTritonNotReady", {READY: "1x20"}, {20: []}),
    Case("only for a moment", "EvergreenTritonNotReady", {READY: "1x5 0 1x20"}, {6: [], 7: [], 9: []}),
    Case(
        "none answers",
        "EvergreenGatewayDown",
        {GATEWAY: "1x5 0x9 1x9"},
        {7: [], 8: [ALL_OF], 15: [ALL_OF], 16: []},
    ),
    Case("one of two answers", "EvergreenGatewayDown", {GATEWAY: "0x20", GATEWAY.replace(":1", ":2"): "1x20"}, {20: []}),
    Case("none is known", "EvergreenGatewayDown", {}, {1: [], 3: [ALL_OF]}),
    Case("rows are lost", "EvergreenLogLosesRows", {DROPPED: "0x5 9x40", UNSTORABLE: "0x45"}, {5: [], 7: [AT], 40: []}),
    Case("none is lost", "EvergreenLogLosesRows", {DROPPED: "4x30", UNSTORABLE: "0x30"}, {30: []}),
]

CPU = 'process_cpu_seconds_total{job="evergreen-gateway",instance="gateway:1"}'
MEMORY = 'process_resident_memory_bytes{job="evergreen-monitor",instance="monitor:1"}'
GPU = 'gpu_uuid="GPU-7",instance="triton:1"'
NODE = {"instance": "triton:1"}
MACHINES = [
    Case("a whole core", "EvergreenProcessBusy", {CPU: "0+59x30 1800x40"}, {20: [GATEWAY_OF], 70: []}),
    Case("half a core", "EvergreenProcessBusy", {CPU: "0+30x30"}, {30: []}),
    Case("another's process", "EvergreenProcessBusy", {CPU.replace("evergreen-gateway", "other"): "0+59x30"}, {30: []}),
    Case(
        "a gigabyte",
        "EvergreenProcessMemoryHigh",
        {MEMORY: "1e9x9 1e8x30"},
        {5: [{"job": "evergreen-monitor", "instance": "monitor:1"}], 30: []},
    ),
    Case("the node works", "EvergreenNodeBusy", {'nv_cpu_utilization{instance="triton:1"}': "0.97x20"}, {20: [NODE]}),
    Case("the node rests", "EvergreenNodeBusy", {'nv_cpu_utilization{instance="triton:1"}': "0.5x20"}, {20: []}),
    Case(
        "the node is full",
        "EvergreenNodeMemoryHigh",
        {'nv_cpu_memory_used_bytes{instance="triton:1"}': "95x9", 'nv_cpu_memory_total_bytes{instance="triton:1"}': "100x9"},
        {9: [NODE]},
    ),
    Case(
        "the node has room",
        "EvergreenNodeMemoryHigh",
        {'nv_cpu_memory_used_bytes{instance="triton:1"}': "89x9", 'nv_cpu_memory_total_bytes{instance="triton:1"}': "100x9"},
        {9: []},
    ),
    Case("a GPU works", "EvergreenGpuBusy", {f"nv_gpu_utilization{{{GPU}}}": "0.99x30"}, {30: [{"gpu_uuid": "GPU-7", **NODE}]}),
    Case("without a GPU", "EvergreenGpuBusy", {}, {9: []}),
    Case(
        "a GPU is full",
        "EvergreenGpuMemoryHigh",
        {f"nv_gpu_memory_used_bytes{{{GPU}}}": "96x9", f"nv_gpu_memory_total_bytes{{{GPU}}}": "100x9"},
        {9: [{"gpu_uuid": "GPU-7", **NODE}]},
    ),
    Case("without a GPU's memory", "EvergreenGpuMemoryHigh", {}, {9: []}),
]

SUCCESS = 'evergreen_monitor_last_success_timestamp_seconds{job="evergreen-monitor",instance="monitor:1"}'
SKIPPED = 'evergreen_monitor_segments_skipped_total{job="evergreen-monitor",instance="monitor:1"}'
LAG = 'evergreen_monitor_lag_seconds{job="evergreen-monitor",instance="monitor:1"}'
MONITOR_OF = {"job": "evergreen-monitor", "instance": "monitor:1"}
FILL = 'evergreen_window_fill_ratio{version="3"}'
KNOWN = JUDGED | {SKETCH: "1x200", HARM: "1x200", MONITOR: "1x200"}
ENDED = 'evergreen_retrain_ended_total{state="%s",step="%s"}'
LOOKED = "evergreen_retrain_controller_last_success_timestamp_seconds"
NOT_TAKEN = 'evergreen_retrain_webhooks_refused_total{reason="full"}'
RETRAIN = [
    Case(
        "one fails",
        "EvergreenRetrainFailed",
        {ENDED % ("failed", "gate"): "0x9 1x120", ENDED % ("failed", "swap"): "0x130"},
        {9: [], 10: [{"step": "gate"}], 60: [{"step": "gate"}], 100: []},
    ),
    Case("one is done", "EvergreenRetrainFailed", {ENDED % ("done", "swap"): "0x9 1x20"}, {12: []}),
    Case("one is refused", "EvergreenCandidateRefused", {ENDED % ("refused", "gate"): "0x9 1x20"}, {9: [], 10: [{}]}),
    Case("one has failed", "EvergreenCandidateRefused", {ENDED % ("failed", "gate"): "0x9 1x20"}, {12: []}),
    Case("it looks", "EvergreenControllerStale", {LOOKED: "0+60x60"}, {60: []}),
    Case("it looks no more", "EvergreenControllerStale", {LOOKED: "0+60x9 stale _x40"}, {15: [], 17: [{}], 40: [{}]}),
    Case("there never was one", "EvergreenControllerStale", {}, {30: []}),
    Case("all are taken", "EvergreenAlertsNotTaken", {NOT_TAKEN: "5x30"}, {20: []}),
    Case("some are refused", "EvergreenAlertsNotTaken", {NOT_TAKEN: "5x9 8x40"}, {11: [], 12: [{"reason": "full"}], 30: []}),
]
WATCHERS = [
    Case("always", "EvergreenWatchdog", {}, {0: [{}], 1: [{}], 90: [{}]}),
    Case("it stopped", "EvergreenMonitorStale", {SUCCESS: "0+60x9 540x30"}, {9: [], 15: [], 17: [{}], 39: [{}]}),
    Case("it goes on", "EvergreenMonitorStale", {SUCCESS: "0+60x60"}, {60: []}),
    Case("it works again", "EvergreenMonitorStale", {SUCCESS: "0+60x9 540x30 2400+60x9"}, {39: [{}], 42: []}),
    Case("it is gone", "EvergreenMonitorStale", {SUCCESS: "0+60x9 stale _x90"}, {17: [{}], 68: [{}], 70: [{}], 90: [{}]}),
    Case("it never was there", "EvergreenMonitorStale", {}, {1: [], 3: [{}]}),
    Case("Prometheus paused", "EvergreenMonitorStale", {SUCCESS: "0+60x9 _x20 1800+60x9"}, {29: [{}], 31: []}),
    Case(
        "the monitor does not answer",
        "EvergreenScrapeMissing",
        {MONITOR: "1x5 0x9", TRITON: "1x20"},
        {7: [], 9: [{"job": "evergreen-monitor"}]},
    ),
    Case("Triton is not scraped", "EvergreenScrapeMissing", {MONITOR: "1x20"}, {1: [], 5: [{"job": "evergreen-triton"}]}),
    Case("all is scraped", "EvergreenScrapeMissing", {MONITOR: "1x20", TRITON: "1x20"}, {20: []}),
    Case("far behind", "EvergreenMonitorLagging", {LAG: "700x9 1x40"}, {9: [MONITOR_OF], 40: []}),
    Case("close behind", "EvergreenMonitorLagging", {LAG: "600x20"}, {20: []}),
    Case("a corrupt segment", "EvergreenSegmentsSkipped", {SKIPPED: "0x5 1x120"}, {5: [], 8: [MONITOR_OF], 110: []}),
    Case("none is corrupt", "EvergreenSegmentsSkipped", {SKIPPED: "3x20"}, {20: []}),
    Case("never full", "EvergreenWindowNeverFull", {**WATCHED, FILL: "0.3x90"}, {59: [], 61: [V3]}),
    Case("full once", "EvergreenWindowNeverFull", {**WATCHED, FILL: "0.3x40 1 0.3x90"}, {61: [], 100: [], 103: [V3]}),
    Case(
        "no thresholds",
        "EvergreenJudgementMissing",
        {name: values for name, values in KNOWN.items() if "threshold" not in name},
        {9: [{"metric": "evergreen_drift_log_e_threshold"}]},
    ),
    Case("all is known", "EvergreenJudgementMissing", KNOWN, {20: []}),
    Case("there is none", "EvergreenReferenceMissing", WATCHED, {1: [], 3: [V3], 60: [V3]}),
    Case("there is one", "EvergreenReferenceMissing", WATCHED | {REFERENCE: "900x60"}, {1: [], 60: []}),
    Case("it comes", "EvergreenReferenceMissing", WATCHED | {REFERENCE: "_x9 900x60"}, {8: [V3], 10: []}),
    Case(
        "of another version than before",
        "EvergreenReferenceMissing",
        {REFERENCE: "900x9 stale _x60", "evergreen_monitored_version": "3x9 4x60"},
        {9: [], 14: [{"version": "4"}]},
    ),
    Case(
        "it is missing and the monitor dies",
        "EvergreenReferenceMissing",
        {"evergreen_monitored_version": "3x9 stale _x60"},
        {9: [V3], 50: [V3]},
    ),
    Case("no monitor", "EvergreenJudgementMissing", {}, {20: []}),
]
CASES = [*DRIFT, *QUALITY, *EXPERIENCE, *CAPACITY, *MACHINES, *RETRAIN, *WATCHERS]
