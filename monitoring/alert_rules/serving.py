"""Alerts on serving: latency, errors, refusals, the queue, Triton, the prediction log.

Latency and errors fire on how fast they burn their budget, over a long window (it matters) and a short one (it still goes on):
Google's Site Reliability Workbook, chapter 5. Without traffic both are undefined, and nothing fires.
"""

from collections.abc import Callable

from monitoring.alert_rules.alert import COUNT, DURATION, JOBS, NOTHING_AUTOMATIC, SHARE, Rule, Severity, query_template
from monitoring.alert_rules.queries import EXPECTED_ABSTENTIONS, FOR_CALLERS, abstained_share
from monitoring.decisions import STATUS
from pipeline.params import Alerts, Params

PREDICT = 'route="/v1/predict"'
GATEWAY = f'job="{JOBS["gateway"]}"'
ShareQuery = Callable[[str, Alerts], str]  # share of requests within a window


def serving_rules(params: Params) -> list[Rule]:
    """Return the rules of this file."""
    gateway_url = f"http://{params.gateway.host}:{params.gateway.port}"
    return [
        *latency_and_errors(params.alerts),
        slow_version(params.alerts),
        refused(params.alerts, gateway_url),
        abstains_often(params.alerts),
        *capacity(params, gateway_url),
        log_loses_rows(params.alerts, gateway_url),
    ]


def latency_and_errors(alerts: Alerts) -> list[Rule]:
    """Return the rules on what callers notice, over all versions."""
    slow, failed = 1 - alerts.latency_share, 1 - alerts.answered_share
    limit = f"{alerts.latency_limit_ms:g} ms"
    rules = []
    for severity, burn, long, short in burn_rates(alerts):
        budget = f"The alert fires above {burn:g} times that share over both {long} and {short}."
        rules += [
            Rule(
                name="EvergreenLatencyHigh",
                area="serving",
                severity=severity,
                expr=burn_condition(share_slow, burn * slow, long, short, alerts),
                keep_s=alerts.keep_firing_s,
                summary="Answers are slow",
                description=f"{SHARE} of the requests in the last {long} took longer than {limit}; "
                f"{slow:.2%} are tolerated. {budget} P99 over the last {short} was {p99_template(short)}.",
                next_step=f"{NOTHING_AUTOMATIC}. Above gateway.max_waiting_texts the gateway refuses requests with 503.",
                look=".venv/bin/evergreen loadtest data/traffic.jsonl --rate 20",
            ),
            Rule(
                name="EvergreenErrorsHigh",
                area="serving",
                severity=severity,
                expr=burn_condition(share_failed, burn * failed, long, short, alerts),
                keep_s=alerts.keep_firing_s,
                summary="Requests fail",
                description=f"{SHARE} of the requests in the last {long} ended with 5xx; {failed:.2%} are tolerated. {budget}",
                next_step=f"{NOTHING_AUTOMATIC}. make serve and Kubernetes restart a Triton that died.",
                look="tail -n 20 live/gateway/gateway.log",
            ),
        ]
    return rules


def burn_rates(alerts: Alerts) -> list[tuple[Severity, float, str, str]]:
    """Return (severity, multiple of the tolerated share, long window, short window)."""
    return [("critical", alerts.burn_fast, "1h", "5m"), ("warning", alerts.burn_slow, "6h", "30m")]


def share_slow(window: str, alerts: Alerts) -> str:
    """Return the query for the share of requests slower than the limit."""
    bound = bucket_label(alerts.latency_limit_ms)
    within = f'sum (rate(evergreen_request_seconds_bucket{{{PREDICT},le="{bound}"}}[{window}]))'
    return f"(1 - {within} / sum (rate(evergreen_request_seconds_count{{{PREDICT}}}[{window}])))"


def share_failed(window: str, _alerts: Alerts) -> str:
    """Return the query for the share of requests that ended with 5xx, which includes refusals with 503."""
    return share_with_code("5..", window)


def share_with_code(code: str, window: str) -> str:
    """Return the query for the share of requests that ended with a code of this pattern."""
    matches = f'sum (rate(evergreen_requests_total{{{PREDICT},code=~"{code}"}}[{window}]))'
    return f"({matches} / sum (rate(evergreen_requests_total{{{PREDICT}}}[{window}])))"


def burn_condition(share: ShareQuery, limit: float, long: str, short: str, alerts: Alerts) -> str:
    """Return the condition that the share is over the limit in both windows and there are enough requests."""
    enough = f"sum (increase(evergreen_requests_total{{{PREDICT}}}[{short}])) >= {alerts.min_requests}"
    return f"{share(long, alerts)} > {limit:.6g}\nand {share(short, alerts)} > {limit:.6g}\nand {enough}"


def bucket_label(limit_ms: float) -> str:
    """Return a bucket's `le` as the gateway's library writes it: `0.1`, `1.0`."""
    return str(float(limit_ms / 1000))


def p99_template(window: str) -> str:
    """Return a template of the requests' P99, read from the buckets."""
    rate = f"sum by (le) (rate(evergreen_request_seconds_bucket{{{PREDICT}}}[{window}]))"
    query = f"`histogram_quantile(0.99, {rate})` | query"
    return f"{{{{ with {query} }}}}{{{{ . | first | value | humanizeDuration }}}}{{{{ else }}}}unknown{{{{ end }}}}"


def slow_version(alerts: Alerts) -> Rule:
    """Fire on P99 by version: a slow challenger shows here before its traffic is large enough to show in all requests."""
    rate = 'rate(evergreen_prediction_seconds_bucket{role!="shadow"}[10m])'
    enough = f'sum by (version) (increase(evergreen_prediction_seconds_count{{role!="shadow"}}[10m])) >= {alerts.min_requests}'
    p99 = f"histogram_quantile({alerts.latency_share:g}, sum by (version, le) ({rate}))"
    return Rule(
        name="EvergreenVersionSlow",
        area="serving",
        severity="warning",
        expr=f"{p99} > {alerts.latency_limit_ms / 1000:g}\nand on (version) {enough}",
        for_s=alerts.for_s,
        keep_s=alerts.keep_firing_s,
        summary="Version {{ $labels.version }} is slow",
        description=f"{alerts.latency_share:.0%} of its predictions in the last 10 min took up to {DURATION}. "
        f"The limit is {alerts.latency_limit_ms:g} ms.",
        next_step=f"{NOTHING_AUTOMATIC}. Return to the previous version: .venv/bin/evergreen rollback",
        look=STATUS,
    )


def refused(alerts: Alerts, gateway_url: str) -> Rule:
    """Fire on requests turned away for any reason: too busy, no token, too fast, too large."""
    requests = 'evergreen_requests_total{route=~"/v1/.*"}[10m]'
    share = f"sum by (reason) (rate(evergreen_refused_total{{{GATEWAY}}}[10m]))\n/ on () group_left ()\nsum (rate({requests}))"
    enough = f"sum (increase({requests})) >= {alerts.min_requests}"
    return Rule(
        name="EvergreenRefusing",
        area="serving",
        severity="warning",
        expr=f"({share}) > {alerts.refused_share:g}\nand on () {enough}",
        for_s=alerts.for_s,
        keep_s=alerts.keep_firing_s,
        summary="Requests are refused: {{ $labels.reason }}",
        description=f"{SHARE} of the requests in the last 10 min were refused ({{{{ $labels.reason }}}}). "
        f"{alerts.refused_share:.0%} are tolerated.",
        next_step=f"{NOTHING_AUTOMATIC}. Each refusal told its caller why, and when to retry.",
        look=f"curl -s {gateway_url}/metrics | grep evergreen_refused",
    )


def abstains_often(alerts: Alerts) -> Rule:
    """Fire on a version that abstains from many more texts than its test rows promised; without a promise nothing fires.

    The limit is k times the promised share, or one k-th of the promised answers where that comes first: k times 0.7 is over 1.
    """
    times, window = alerts.abstained_times, f"{alerts.abstained_window_s}s"
    promised = f"max by (version) ({EXPECTED_ABSTENTIONS})"
    limit = f"(({times:g} * {promised} < 1 - (1 - {promised}) / {times:g}) or (1 - (1 - {promised}) / {times:g}))"
    abstained, texts = (
        f"sum by (version) (increase(evergreen_{name}_total{{{FOR_CALLERS}}}[{window}]))"
        for name in ("abstentions", "predictions")
    )
    enough = alerts.abstained_answers
    expected = query_template(f'{EXPECTED_ABSTENTIONS}{{version="%s"}}', ("version",), "humanizePercentage")
    return Rule(
        name="EvergreenAbstainsOften",
        area="serving",
        severity="warning",
        expr=f"{abstained_share(window)}\n> {limit}\nand {abstained} >= {enough}\nand {texts} * (1 - {promised}) >= {enough}",
        for_s=alerts.for_s,
        keep_s=alerts.keep_firing_s,
        summary="Version {{ $labels.version }} is unsure of many texts",
        description=f"Of the texts in the last {alerts.abstained_window_s / 60:g} min, {SHARE} got no label. "
        f"On its test rows it was at most {expected}. The alert fires above {times:g} times that share.",
        next_step=f"{NOTHING_AUTOMATIC}. These callers get null or abstain.fallback instead of a label.",
        look=STATUS,
    )


def capacity(params: Params, gateway_url: str) -> list[Rule]:
    """Return the rules on the queue, Triton and the gateway."""
    alerts, places = params.alerts, params.gateway.max_waiting_texts
    answering = f"sum by (job) (up{{{GATEWAY}}})"
    return [
        Rule(
            name="EvergreenQueueFull",
            area="serving",
            severity="warning",
            expr=f"avg_over_time(evergreen_waiting_texts[2m]) / {places} > {alerts.queue_share:g}",
            for_s=alerts.for_s,
            keep_s=alerts.keep_firing_s,
            summary="The queue of {{ $labels.instance }} is nearly full",
            description=f"On average over 2 min, {SHARE} of its {places} places were taken. "
            f"The limit is {alerts.queue_share:.0%}.",
            next_step="When the queue is full, requests are refused with 503 and Retry-After.",
            look=STATUS,
        ),
        Rule(
            name="EvergreenTritonNotReady",
            area="serving",
            severity="critical",
            expr="max_over_time(evergreen_triton_ready[1m]) == 0",
            for_s=alerts.for_s,
            summary="Triton does not have the champion ready",
            description=f"The gateway {{{{ $labels.instance }}}} has had no ready champion for {alerts.for_s} s and answers 503.",
            next_step="make serve and Kubernetes restart a Triton that died. It loads the champion at start.",
            look=STATUS,
        ),
        Rule(
            name="EvergreenGatewayDown",
            area="serving",
            severity="critical",
            expr=f"{answering} == 0\nor absent(up{{{GATEWAY}}})",
            for_s=alerts.for_s,
            summary="No gateway answers",
            description=f"Prometheus has reached no gateway for {alerts.for_s} s, or has no gateway to scrape.",
            next_step="make serve and Kubernetes restart a gateway that died. Alerts on latency and errors are suppressed until "
            "then.",
            look=f"curl -sS {gateway_url}/readyz",
        ),
    ]


def log_loses_rows(alerts: Alerts, gateway_url: str) -> Rule:
    """Fire on rows that the monitor will never see."""
    lost = [f"sum by (instance) (increase(evergreen_prediction_log_{name}[10m]))" for name in ("rows_dropped", "rows_unstorable")]
    return Rule(
        name="EvergreenLogLosesRows",
        area="watch",
        severity="warning",
        expr=f"{lost[0]} + {lost[1]} > 0",
        keep_s=alerts.keep_firing_s,
        summary="The prediction log loses rows",
        description=f"{{{{ $labels.instance }}}} lost {COUNT} rows in 10 min. Its buffer is full, or the rows could not be "
        "stored. These predictions were answered, but they are neither monitored nor labelled.",
        next_step="The gateway keeps answering and retries writing.",
        look=f"curl -s {gateway_url}/metrics | grep evergreen_prediction_log",
    )
