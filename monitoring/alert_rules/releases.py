"""Alerts on gradual releases: rolled back, refused, without a decision for long, waiting for labels. None starts a retrain."""

from monitoring.alert_rules.alert import COUNT, DURATION, NOTHING_AUTOMATIC, Rule, last_known, query_template
from pipeline.params import Params

ENDED, STAGE_BEGAN = "evergreen_release_ended_timestamp_seconds", "evergreen_release_stage_began_timestamp_seconds"
LOG_E, LOG_THRESHOLD = "evergreen_release_log_e", "evergreen_release_log_threshold"
WAITING, STAGE = "evergreen_release_texts_without_label", "evergreen_release_stage_info"
TOLD_FOR_S = 3600  # after the end of a release
GUARDRAILS = {
    "errors": "it failed to answer",
    "latency": "it answered slowly",
    "broken_answers": "its answers were broken",
    "disagreement": "it differed from the champion more than in the shadow",
    "feedback": "people called its answers wrong",
    "memory": "its process grew",
}
STATUS = ".venv/bin/evergreen status"


def release_rules(params: Params) -> list[Rule]:
    """Return the rules of this file."""
    return [rolled_back(params), refused(params), stuck(params), labels_needed(params)]


def rolled_back(params: Params) -> Rule:
    """Fire for an hour after a release was rolled back."""
    found, needed = (
        query_template(f'{name}{{version="%s",test="%s"}}', ("version", "broken"), "printf `%.1f`")
        for name in (LOG_E, LOG_THRESHOLD)
    )
    return Rule(
        name="EvergreenReleaseRolledBack",
        area="release",
        severity="warning",
        expr=ended_lately("rolled_back", params),
        keep_s=params.alerts.keep_firing_s,
        summary=f"Version {{{{ $labels.version }}}} was rolled back: {broken_words()}",
        description="The champion answers everybody again, and the version is retired."
        f"{{{{ if ne $labels.broken `none` }}}} Evidence (log e-value): {found}, at its threshold of {needed}.{{{{ end }}}}",
        next_step="Nothing to do for callers. The next retrain begins another release; look at the texts before it does",
        look=".venv/bin/evergreen why v{{ $labels.version }}",
    )


def refused(params: Params) -> Rule:
    """Inform people for an hour that the shadow has refused a version."""
    return Rule(
        name="EvergreenReleaseRefused",
        area="release",
        severity="info",
        expr=ended_lately("refused", params),
        keep_s=params.alerts.keep_firing_s,
        summary="Version {{ $labels.version }} was refused before it answered anybody",
        description="On copies of live traffic it was worse than the champion, or not shown to be good enough. No caller got an "
        "answer of it.",
        next_step="After the cool-down the next alert may start another retrain if there are new labels.",
        look=".venv/bin/evergreen why v{{ $labels.version }}",
    )


def stuck(params: Params) -> Rule:
    """Fire when a release has neither moved nor ended for `release.patience_s`."""
    patience_s = params.release.patience_s
    return Rule(
        name="EvergreenReleaseStuck",
        area="release",
        severity="warning",
        expr=f"time() - {last_known(STAGE_BEGAN, params.alerts, ('version',))} > {patience_s:g}",
        for_s=params.alerts.for_s,
        summary="The release of version {{ $labels.version }} does not move",
        description=f"It has stood at one stage for {DURATION}. A release waits for traffic, for labels, or for a person who has "
        "paused it; it never passes a stage without evidence.",
        next_step=f"{NOTHING_AUTOMATIC}: the champion keeps answering",
        look=STATUS,
    )


def labels_needed(params: Params) -> Rule:
    """Inform people that a release waits for their labels."""
    return Rule(
        name="EvergreenReleaseLabelsNeeded",
        area="release",
        severity="info",
        expr=f'max by (version) ({WAITING}) > 0 and on (version) {STAGE}{{stage="shadow"}}',
        for_s=params.alerts.for_s,
        keep_s=params.alerts.keep_firing_s,
        summary="The release of version {{ $labels.version }} waits for labels",
        description=f"{COUNT} texts on which it and the champion differ wait for a label. At most {params.release.labels} are "
        "asked for, and they come first on the page Label.",
        next_step="The release waits; traffic that both answer alike may decide it without labels, much later",
        look="make console",
    )


def ended_lately(outcome: str, params: Params) -> str:
    """Return the condition that the newest release has ended so in the last hour."""
    ended = last_known(f'{ENDED}{{outcome="{outcome}"}}', params.alerts, ("version", "broken"))
    return f"time() - {ended} < {TOLD_FOR_S}"


def broken_words() -> str:
    """Return a template of what broke."""
    branches = "{{ else ".join(f'if eq $labels.broken "{name}" }}}}{words}' for name, words in GUARDRAILS.items())
    return f"{{{{ {branches}{{{{ else }}}}it was worse, or did not load{{{{ end }}}}"
