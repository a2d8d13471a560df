"""Cases of the alerts on gradual releases. Prometheus' clock begins at 0, and so do the times of the series."""

from tests.monitoring.alert_rules.cases import Case

ENDED = 'evergreen_release_ended_timestamp_seconds{version="4",champion="3",outcome="%s",broken="%s"}'
BEGAN = 'evergreen_release_stage_began_timestamp_seconds{version="4"}'
WAITING = 'evergreen_release_texts_without_label{version="4"}'
STAGE = 'evergreen_release_stage_info{version="4",champion="3",stage="%s"}'
V4 = {"version": "4"}
BROKEN = V4 | {"broken": "latency"}
EVIDENCE = {
    'evergreen_release_log_e{version="4",test="latency"}': "9.25x200",
    'evergreen_release_log_threshold{version="4",test="latency"}': "6.4x200",
}

RELEASES = [
    Case(
        "a guardrail broke",
        "EvergreenReleaseRolledBack",
        {ENDED % ("rolled_back", "latency"): "_x4 300x200"} | EVIDENCE,
        {3: [], 5: [BROKEN], 60: [BROKEN], 90: []},
    ),
    Case(
        "the controller dies after it",
        "EvergreenReleaseRolledBack",
        {ENDED % ("rolled_back", "latency"): "_x4 300x2 stale _x100"} | EVIDENCE,
        {5: [BROKEN], 40: [BROKEN]},
    ),
    Case("a promotion is no roll-back", "EvergreenReleaseRolledBack", {ENDED % ("promoted", "none"): "_x4 300x50"}, {6: []}),
    Case("a person ended it", "EvergreenReleaseRolledBack", {ENDED % ("aborted", "none"): "_x4 300x50"}, {6: []}),
    Case(
        "the shadow refused it",
        "EvergreenReleaseRefused",
        {ENDED % ("refused", "none"): "_x4 300x200"},
        {3: [], 5: [V4 | {"broken": "none"}], 90: []},
    ),
    Case("no data for a day", "EvergreenReleaseStuck", {BEGAN: "0x1500"}, {1439: [], 1445: [V4]}),
    Case("it moves on", "EvergreenReleaseStuck", {BEGAN: "0x1445 86000x200"}, {1444: [V4], 1447: []}),
    Case(
        "labels are needed", "EvergreenReleaseLabelsNeeded", {WAITING: "0x3 12x20", STAGE % "shadow": "1x40"}, {3: [], 10: [V4]}
    ),
    Case("no label is needed", "EvergreenReleaseLabelsNeeded", {WAITING: "0x30", STAGE % "shadow": "1x40"}, {20: []}),
    Case("a canary asks nobody", "EvergreenReleaseLabelsNeeded", {WAITING: "12x30", STAGE % "canary": "1x40"}, {20: []}),
]
