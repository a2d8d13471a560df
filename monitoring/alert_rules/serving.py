"""Alerts on what is served: latency, errors, refusals, the queue, Triton, the prediction log.

Latency and errors are judged by how fast they burn what is tolerated, over a long window (it matters) and a short one (it still
goes on): Google's Site Reliability Workbook, chapter 5. Without traffic both are undefined, and nothing fires.
"""

from collections.abc import Callable

from monitoring.alert_rules.alert import BY_A_PERSON, COUNT, DURATION, JOBS, SHARE, Rule, Severity
from pipeline.params import Alerts, Params

ASKED = 'route="/v1/predict"'
GATEWAY = f'job="{JOBS["gateway"]}"'
Share = Callable[[str, Alerts], str]  # of requests, in a window
STATUS = ".venv/bin/evergreen status"


def served(params: Params) -> list[Rule]:
    """Every alert of this file."""
    front = f"http://{params.gateway.host}:{params.gateway.port}"
    felt = [*experience(params.alerts), slow_version(params.alerts), refused(params.alerts, front)]
    return [*felt, *capacity(params, front), log_loses_rows(params.alerts, front)]


def experience(alerts: Alerts) -> list[Rule]:
    """What callers feel, over all versions."""
    slow, failed = 1 - alerts.latency_share, 1 - alerts.answered_share
    limit = f"{alerts.latency_limit_ms:g} ms"
    rules = []
    for severity, burn, long, short in speeds(alerts):
        budget = f"{burn:g} times what is tolerated over {long}, and still over {short}"
        rules += [
            Rule(
                name="EvergreenLatencyHigh",
                area="serving",
                severity=severity,
                expr=burning(share_slow, burn * slow, long, short, alerts),
                keep_s=alerts.keep_firing_s,
                summary="Answers are slow",
                description=f"{SHARE} of the requests took longer than {limit} in the last {long}, where "
                f"{slow:.2%} are tolerated ({budget}). P99 of the last {short}: {p99_now(short)}.",
                then=f"{BY_A_PERSON}. Beyond gateway.max_waiting_texts the gateway refuses with 503.",
                look=".venv/bin/evergreen loadtest data/traffic.jsonl --rate 20",
            ),
            Rule(
                name="EvergreenErrorsHigh",
                area="serving",
                severity=severity,
                expr=burning(share_failed, burn * failed, long, short, alerts),
                keep_s=alerts.keep_firing_s,
                summary="Requests fail",
                description=f"{SHARE} of the requests ended with 5xx in the last {long}, where "
                f"{failed:.2%} are tolerated ({budget}).",
                then=f"{BY_A_PERSON}. A Triton that died is started again by make serve, and by Kubernetes.",
                look="tail -n 20 live/gateway/gateway.log",
            ),
        ]
    return rules


def speeds(alerts: Alerts) -> list[tuple[Severity, float, str, str]]:
    """(severity, times the tolerated share, long window, short window)."""
    return [("critical", alerts.burn_fast, "1h", "5m"), ("warning", alerts.burn_slow, "6h", "30m")]


def share_slow(window: str, alerts: Alerts) -> str:
    """Share of requests beyond the limit."""
    bound = le(alerts.latency_limit_ms)
    within = f'sum (rate(evergreen_request_seconds_bucket{{{ASKED},le="{bound}"}}[{window}]))'
    return f"(1 - {within} / sum (rate(evergreen_request_seconds_count{{{ASKED}}}[{window}])))"


def share_failed(window: str, _alerts: Alerts) -> str:
    """Share of requests that ended with 5xx; what was refused with 503 is among them."""
    failed = f'sum (rate(evergreen_requests_total{{{ASKED},code=~"5.."}}[{window}]))'
    return f"({failed} / sum (rate(evergreen_requests_total{{{ASKED}}}[{window}])))"


def burning(share: Share, limit: float, long: str, short: str, alerts: Alerts) -> str:
    """The share is over the limit in both windows, and there are requests enough to say so."""
    asked = f"sum (increase(evergreen_requests_total{{{ASKED}}}[{short}])) >= {alerts.min_requests}"
    return f"{share(long, alerts)} > {limit:.6g}\nand {share(short, alerts)} > {limit:.6g}\nand {asked}"


def le(limit_ms: float) -> str:
    """The label of a bucket as the gateway's library writes it: `0.1`, `1.0`."""
    return str(float(limit_ms / 1000))


def p99_now(window: str) -> str:
    """A template: P99 of the requests, read off the buckets."""
    rate = f"sum by (le) (rate(evergreen_request_seconds_bucket{{{ASKED}}}[{window}]))"
    query = f"`histogram_quantile(0.99, {rate})` | query"
    return f"{{{{ with {query} }}}}{{{{ . | first | value | humanizeDuration }}}}{{{{ else }}}}unknown{{{{ end }}}}"


def slow_version(alerts: Alerts) -> Rule:
    """P99 by version: a challenger that is slow shows here before it has traffic enough to show in all requests."""
    rate = 'rate(evergreen_prediction_seconds_bucket{role!="shadow"}[10m])'
    counted = f'sum by (version) (increase(evergreen_prediction_seconds_count{{role!="shadow"}}[10m])) >= {alerts.min_requests}'
    p99 = f"histogram_quantile({alerts.latency_share:g}, sum by (version, le) ({rate}))"
    return Rule(
        name="EvergreenVersionSlow",
        area="serving",
        severity="warning",
        expr=f"{p99} > {alerts.latency_limit_ms / 1000:g}\nand on (version) {counted}",
        for_s=alerts.for_s,
        keep_s=alerts.keep_firing_s,
        summary="Version {{ $labels.version }} is slow",
        description=f"{alerts.latency_share:.0%} of its predictions of the last 10 min took up to {DURATION}; "
        f"the limit is {alerts.latency_limit_ms:g} ms.",
        then=f"{BY_A_PERSON}; the version before: .venv/bin/evergreen rollback",
        look=STATUS,
    )


def refused(alerts: Alerts, front: str) -> Rule:
    """Turned away for any reason: too busy, no token, too fast, too large."""
    counted = 'evergreen_requests_total{route=~"/v1/.*"}[10m]'
    share = f"sum by (reason) (rate(evergreen_refused_total[10m]))\n/ on () group_left ()\nsum (rate({counted}))"
    enough = f"sum (increase({counted})) >= {alerts.min_requests}"
    return Rule(
        name="EvergreenRefusing",
        area="serving",
        severity="warning",
        expr=f"({share}) > {alerts.refused_share:g}\nand on () {enough}",
        for_s=alerts.for_s,
        keep_s=alerts.keep_firing_s,
        summary="Requests are refused: {{ $labels.reason }}",
        description=f"{SHARE} of the requests of the last 10 min were refused ({{{{ $labels.reason }}}}); "
        f"{alerts.refused_share:.0%} are tolerated.",
        then=f"{BY_A_PERSON}. The refused were told why, and when to come again.",
        look=f"curl -s {front}/metrics | grep evergreen_refused",
    )


def capacity(params: Params, front: str) -> list[Rule]:
    """The queue, Triton and the gateway."""
    alerts, most = params.alerts, params.gateway.max_waiting_texts
    answering = f"sum by (job) (up{{{GATEWAY}}})"
    return [
        Rule(
            name="EvergreenQueueFull",
            area="serving",
            severity="warning",
            expr=f"avg_over_time(evergreen_waiting_texts[2m]) / {most} > {alerts.queue_share:g}",
            for_s=alerts.for_s,
            keep_s=alerts.keep_firing_s,
            summary="The queue of {{ $labels.instance }} is nearly full",
            description=f"On average of 2 min {SHARE} of its {most} places are taken ({alerts.queue_share:.0%} is the limit).",
            then="When it is full, requests are refused with 503 and Retry-After.",
            look=STATUS,
        ),
        Rule(
            name="EvergreenTritonNotReady",
            area="serving",
            severity="critical",
            expr="max_over_time(evergreen_triton_ready[1m]) == 0",
            for_s=alerts.for_s,
            summary="Triton does not have the champion ready",
            description=f"The gateway {{{{ $labels.instance }}}} had no ready champion for {alerts.for_s} s and answers 503.",
            then="make serve and Kubernetes start a Triton that died again; the champion is loaded with it.",
            look=STATUS,
        ),
        Rule(
            name="EvergreenGatewayDown",
            area="serving",
            severity="critical",
            expr=f"{answering} == 0\nor absent(up{{{GATEWAY}}})",
            for_s=alerts.for_s,
            summary="No gateway answers",
            description=f"Prometheus has reached no gateway for {alerts.for_s} s, or is told of none.",
            then="make serve and Kubernetes start a gateway that died again; latency and errors are not told of meanwhile.",
            look=f"curl -sS {front}/readyz",
        ),
    ]


def log_loses_rows(alerts: Alerts, front: str) -> Rule:
    """Rows that the monitor will never see."""
    lost = [f"sum by (instance) (increase(evergreen_prediction_log_{name}[10m]))" for name in ("rows_dropped", "rows_unstorable")]
    return Rule(
        name="EvergreenLogLosesRows",
        area="watch",
        severity="warning",
        expr=f"{lost[0]} + {lost[1]} > 0",
        keep_s=alerts.keep_firing_s,
        summary="The prediction log loses rows",
        description=f"{{{{ $labels.instance }}}} lost {COUNT} rows in 10 min: its buffer is full, or they could not be "
        "stored. They are answered, but neither watched nor labelled.",
        then="The gateway answers on and tries to write again.",
        look=f"curl -s {front}/metrics | grep evergreen_prediction_log",
    )
