"""Cases of the alerts on serving and resources."""

from tests.monitoring.alert_rules.cases import V3, Case

PREDICT = 'route="/v1/predict"'


def traffic(*, within: str, total: str = "0+120x400", failed: str = "") -> dict[str, str]:
    """Return series of all requests, those within the limit, and those that failed, per minute."""
    series = {
        f"evergreen_request_seconds_count{{{PREDICT}}}": total,
        f'evergreen_request_seconds_bucket{{{PREDICT},le="0.1"}}': within,
        f'evergreen_request_seconds_bucket{{{PREDICT},le="+Inf"}}': total,
        f'evergreen_requests_total{{{PREDICT},code="200"}}': total,
    }
    return series | ({f'evergreen_requests_total{{{PREDICT},code="503"}}': failed} if failed else {})


FAST, SLOW = {"severity": "critical"}, {"severity": "warning"}
LATENCY_AND_ERRORS = [
    Case("a third is slow", "EvergreenLatencyHigh", traffic(within="0+80x400"), {30: [FAST, SLOW]}),
    Case("a tenth is slow", "EvergreenLatencyHigh", traffic(within="0+108x400"), {380: [SLOW]}),
    Case("one in twenty is slow", "EvergreenLatencyHigh", traffic(within="0+114x400"), {380: []}),
    Case("few requests", "EvergreenLatencyHigh", traffic(within="0+0x400", total="0+1x400"), {4: []}),
    Case("no requests", "EvergreenLatencyHigh", traffic(within="5x400", total="9x400"), {100: []}),
    Case(
        "fast again",
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
        "a fast version",
        "EvergreenVersionSlow",
        {
            'evergreen_prediction_seconds_bucket{version="3",role="champion",le="0.05"}': "0+60x60",
            'evergreen_prediction_seconds_bucket{version="3",role="champion",le="+Inf"}': "0+60x60",
            'evergreen_prediction_seconds_count{version="3",role="champion"}': "0+60x60",
        },
        {60: []},
    ),
    Case(
        "many refusals for one reason",
        "EvergreenRefusing",
        {
            **traffic(within="0+120x60", total="0+120x60"),
            'evergreen_refused_total{job="evergreen-gateway",reason="no_token"}': "0+24x60",
            'evergreen_refused_total{job="evergreen-gateway",reason="body_too_large"}': "0+2x60",
        },
        {20: [{"reason": "no_token"}]},
    ),
    Case(
        "few refusals",
        "EvergreenRefusing",
        {
            **traffic(within="0+120x60", total="0+120x60"),
            'evergreen_refused_total{job="evergreen-gateway",reason="no_token"}': "0+10x60",
        },
        {20: []},
    ),
]


def abstaining(each_minute: float, *, expected: float | None, texts: float = 60) -> dict[str, str]:
    """Return series of a version's texts and abstentions per minute, and the share of abstentions that it promised."""
    series = {
        'evergreen_predictions_total{version="3",role="champion",cached="no"}': f"0+{texts * 3 / 4}x100",
        'evergreen_predictions_total{version="3",role="champion",cached="yes"}': f"0+{texts / 4}x100",
        'evergreen_predictions_total{version="3",role="shadow",cached="no"}': f"0+{texts * 9}x100",
        'evergreen_abstentions_total{version="3",role="champion"}': f"0+{each_minute}x100",
    }
    return series | ({'evergreen_abstention_expected_ratio{version="3"}': f"{expected}x100"} if expected is not None else {})


ALWAYS_ANSWERS = {
    name: values for name, values in abstaining(0, expected=None).items() if not name.startswith("evergreen_abstentions")
}
ABSTAINS = "EvergreenAbstainsOften"
ABSTENTIONS = [
    Case("three times as many as expected", ABSTAINS, abstaining(18, expected=0.1), {4: [], 70: [V3]}),
    Case("as many as expected", ABSTAINS, abstaining(6, expected=0.1), {90: []}),
    Case("less than twice as many", ABSTAINS, abstaining(11.5, expected=0.1), {90: []}),
    Case("many more than none", ABSTAINS, abstaining(6, expected=0.0), {70: [V3]}),
    Case("answers nothing any more", ABSTAINS, abstaining(60, expected=0.7), {90: [V3]}),
    Case("most are expected to get no label", ABSTAINS, abstaining(45, expected=0.7), {90: []}),
    Case("too few abstained to know", ABSTAINS, abstaining(0.5, expected=0.1, texts=1), {90: []}),
    Case("too few answers are expected to know", ABSTAINS, abstaining(2, expected=0.7, texts=2), {90: []}),
    Case("a version that never abstains", ABSTAINS, ALWAYS_ANSWERS, {90: []}),
    Case("an older version, which promised nothing", ABSTAINS, abstaining(60, expected=None), {90: []}),
    Case(
        "a challenger that abstains often only from shadow copies",
        ABSTAINS,
        {
            **ALWAYS_ANSWERS,
            'evergreen_abstentions_total{version="3",role="shadow"}': "0+500x100",
            'evergreen_abstention_expected_ratio{version="3"}': "0.1x100",
        },
        {90: []},
    ),
]

GATEWAY = 'up{job="evergreen-gateway",instance="gateway:1"}'
AT = {"instance": "gateway:1"}
READY = 'evergreen_triton_ready{job="evergreen-gateway",instance="gateway:1"}'
WAITING = 'evergreen_waiting_texts{job="evergreen-gateway",instance="gateway:1"}'
DROPPED, UNSTORABLE = (f'evergreen_prediction_log_rows_{name}{{instance="gateway:1"}}' for name in ("dropped", "unstorable"))
GATEWAY_JOB = {"job": "evergreen-gateway"}
GATEWAY_INSTANCE = {"job": "evergreen-gateway", "instance": "gateway:1"}
CAPACITY = [
    Case("a full queue", "EvergreenQueueFull", {WAITING: "0x5 500x20 0x30"}, {5: [], 12: [GATEWAY_INSTANCE], 50: []}),
    Case("a half-full queue", "EvergreenQueueFull", {WAITING: "256x20"}, {20: []}),
    Case("Triton is not ready", "EvergreenTritonNotReady", {READY: "1x5 0x9 1x9"}, {7: [], 10: [GATEWAY_INSTANCE], 16: []}),
    Case("Triton is ready", "EvergreenTritonNotReady", {READY: "1x20"}, {20: []}),
    Case("not ready for a moment", "EvergreenTritonNotReady", {READY: "1x5 0 1x20"}, {6: [], 7: [], 9: []}),
    Case(
        "no gateway answers",
        "EvergreenGatewayDown",
        {GATEWAY: "1x5 0x9 1x9"},
        {7: [], 8: [GATEWAY_JOB], 15: [GATEWAY_JOB], 16: []},
    ),
    Case("one of two gateways answers", "EvergreenGatewayDown", {GATEWAY: "0x20", GATEWAY.replace(":1", ":2"): "1x20"}, {20: []}),
    Case("no gateway is scraped", "EvergreenGatewayDown", {}, {1: [], 3: [GATEWAY_JOB]}),
    Case("rows are lost", "EvergreenLogLosesRows", {DROPPED: "0x5 9x40", UNSTORABLE: "0x45"}, {5: [], 7: [AT], 40: []}),
    Case("no row is lost", "EvergreenLogLosesRows", {DROPPED: "4x30", UNSTORABLE: "0x30"}, {30: []}),
]

CPU = 'process_cpu_seconds_total{job="evergreen-gateway",instance="gateway:1"}'
MEMORY = 'process_resident_memory_bytes{job="evergreen-monitor",instance="monitor:1"}'
GPU = 'gpu_uuid="GPU-7",instance="triton:1"'
NODE = {"instance": "triton:1"}
RESOURCES = [
    Case("a full core", "EvergreenProcessBusy", {CPU: "0+59x30 1800x40"}, {20: [GATEWAY_INSTANCE], 70: []}),
    Case("half a core", "EvergreenProcessBusy", {CPU: "0+30x30"}, {30: []}),
    Case("a process of another job", "EvergreenProcessBusy", {CPU.replace("evergreen-gateway", "other"): "0+59x30"}, {30: []}),
    Case(
        "a gigabyte",
        "EvergreenProcessMemoryHigh",
        {MEMORY: "1e9x9 1e8x30"},
        {5: [{"job": "evergreen-monitor", "instance": "monitor:1"}], 30: []},
    ),
    Case("a busy node", "EvergreenNodeBusy", {'nv_cpu_utilization{instance="triton:1"}': "0.97x20"}, {20: [NODE]}),
    Case("an idle node", "EvergreenNodeBusy", {'nv_cpu_utilization{instance="triton:1"}': "0.5x20"}, {20: []}),
    Case(
        "a node without free memory",
        "EvergreenNodeMemoryHigh",
        {'nv_cpu_memory_used_bytes{instance="triton:1"}': "95x9", 'nv_cpu_memory_total_bytes{instance="triton:1"}': "100x9"},
        {9: [NODE]},
    ),
    Case(
        "a node with free memory",
        "EvergreenNodeMemoryHigh",
        {'nv_cpu_memory_used_bytes{instance="triton:1"}': "89x9", 'nv_cpu_memory_total_bytes{instance="triton:1"}': "100x9"},
        {9: []},
    ),
    Case("a busy GPU", "EvergreenGpuBusy", {f"nv_gpu_utilization{{{GPU}}}": "0.99x30"}, {30: [{"gpu_uuid": "GPU-7", **NODE}]}),
    Case("no GPU", "EvergreenGpuBusy", {}, {9: []}),
    Case(
        "a GPU without free memory",
        "EvergreenGpuMemoryHigh",
        {f"nv_gpu_memory_used_bytes{{{GPU}}}": "96x9", f"nv_gpu_memory_total_bytes{{{GPU}}}": "100x9"},
        {9: [{"gpu_uuid": "GPU-7", **NODE}]},
    ),
    Case("no GPU memory", "EvergreenGpuMemoryHigh", {}, {9: []}),
]
