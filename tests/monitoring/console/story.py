"""A home whose last six hours tell a story: a new topic, evidence, alerts, a retrain, and a better version.

Everything is written as the programs write it: segments of the prediction log, and rows of the state database.
"""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from monitoring.alert_rules.incident import SIGNALS
from serving.prediction import Prediction
from serving.prediction_log.segments import encode_segment
from state.database import open_state
from state.tables import alerts, decisions, feedback, judgements, releases, retrain_steps, retrains, signals, windows

NOW = 1_790_000_000.0 - 1_790_000_000 % 3600 + 1200
HOUR = 3600.0
TOPIC, ALERT, RETRAIN, PROMOTED = (NOW - hours * HOUR for hours in (4.2, 3.3, 3.1, 2.3))
LABELS = (
    "track_order",
    "refund",
    "cancel_order",
    "change_address",
    "damaged_item",
    "invoice",
    "opening_hours",
    "voucher",
    "size",
)
HOSTILE = "<img src=x onerror=alert(1)>\u202e"
STEP_S = 10.0  # between predictions


def tell(home: Path, *, hostile: bool = False) -> None:
    """Write the log and the database."""
    write_log(home, hostile=hostile)
    with open_state(home) as engine, engine.begin() as connection:
        for table, rows in (
            (releases, release_rows()),
            (windows, [row for row, _ in window_rows()]),
            (signals, [signal for _, row in window_rows() for signal in row]),
            (decisions, decision_rows(hostile=hostile)),
            (alerts, alert_rows()),
            (retrains, [RETRAIN_ROW]),
            (retrain_steps, step_rows()),
            (feedback, [row for row, _ in label_rows()]),
            (judgements, [row for _, row in label_rows()]),
        ):
            connection.execute(table.insert(), rows)


def write_log(home: Path, *, hostile: bool = False) -> None:
    """Write a segment for each quarter of an hour; at two in between, the gateway was away."""
    rng, sequence, rows = np.random.default_rng(7), 0, 0
    for start in np.arange(NOW - 6 * HOUR, NOW, 900.0):
        batch = [prediction(at, rng) for at in np.arange(start, start + 900.0, STEP_S) if not is_away(at)]
        if hostile and batch:
            batch[-1] = batch[-1]._replace(label=HOSTILE)
        segment = encode_segment(batch, "keep", "story", sequence, rows)
        if segment.rows:
            path = home / "predictions" / segment.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(segment.data)
            sequence, rows = segment.sequence, rows + segment.rows


def is_away(at: float) -> bool:
    """Return whether the gateway was away."""
    return NOW - 5.4 * HOUR < at < NOW - 5.1 * HOUR


def prediction(at: float, rng: np.random.Generator) -> Prediction:
    """Return what a customer asked at this time; after `TOPIC` many ask for a voucher."""
    weights = np.array([30, 18, 12, 9, 8, 7, 6, 4, 3], dtype=float)
    weights[7] += 45 * min(1.0, max(0.0, (at - TOPIC) / HOUR))
    label = LABELS[int(rng.choice(len(LABELS), p=weights / weights.sum()))]
    version = version_at(at)
    latency_ms = float(rng.lognormal(2.4, 0.45)) * (1.6 if RETRAIN < at < PROMOTED else 1.0)
    return Prediction(
        float(at), "r", f"{at:.0f}", None, "text", None, 5, 1.2, version, "champion", label, 0.9, None, b"", b"", latency_ms,
        cache_hit=False,
    )  # fmt: skip


def version_at(at: float) -> int:
    """Return the champion."""
    return 2 if at >= PROMOTED else 1


def evidence_at(at: float, signal: str) -> float:
    """Return log e-value over its threshold."""
    strength = {"input_sketch": 1.35, "prediction_labels": 1.1, "input_novelty": 0.8}.get(signal, 0.25)
    if at >= PROMOTED:
        return 0.08 + 0.05 * math.sin(at / 900)
    return strength * min(1.0, max(0.0, (at - TOPIC) / HOUR)) + 0.06 * (1 + math.sin(at / 700 + len(signal)))


def accuracy_at(at: float) -> float:
    """Return the estimated accuracy."""
    return 0.905 if at >= PROMOTED else 0.9 - 0.09 * min(1.0, max(0.0, (at - TOPIC) / HOUR))


def window_rows() -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yield a window of ten minutes and its signals, again and again."""
    numbers = {1: 0, 2: 0}
    for at in np.arange(NOW - 6 * HOUR + 600, NOW, 600.0).tolist():
        if is_away(at):
            continue
        version, estimate = version_at(at), accuracy_at(at)
        numbers[version] += 1
        key = {"version": version, "number": numbers[version]}
        yield (
            {
                **key, "began_at": at - 600, "ended_at": at, "rows": 60, "foreign_share": 0.02, "accuracy_estimate": estimate,
                "accuracy_lower": estimate - 0.03, "accuracy_upper": min(1.0, estimate + 0.025), "details": "{}",
            },
            [
                {
                    **key, "signal": signal, "value": 0.1, "threshold": 0.2, "p": 0.3, "effect": 0.1,
                    "log_e": 9.2 * evidence_at(at, signal), "log_threshold": 9.2,
                    "alarm": "stream" if evidence_at(at, signal) > 1 else "none",
                }
                for signal in SIGNALS
            ],
        )  # fmt: skip


def release_rows() -> list[dict[str, Any]]:
    published = {1: NOW - 40 * 24 * HOUR, 2: PROMOTED - 60}
    return [
        {"version": version, "content_digest": str(version) * 64, "role": role, "published_at": datetime.fromtimestamp(at, UTC)}
        for (version, at), role in zip(published.items(), ("previous", "champion"), strict=True)
    ]


def alert_rows() -> list[dict[str, Any]]:
    """Return what the journal received: two alerts, and the end of each; the last one still fires."""
    rows = []
    for name, starts_at, ends_at in (
        ("EvergreenWindowDrift", NOW - 5.6 * HOUR, NOW - 5.4 * HOUR),
        ("EvergreenDrift", ALERT, PROMOTED + 600),
        ("EvergreenEstimatedAccuracyLow", ALERT + 300, PROMOTED + 500),
        ("EvergreenQueueFull", NOW - 900, None),
    ):
        body = f'{{"labels": {{"alertname": "{name}"}}}}'
        row = {"fingerprint": name.lower(), "starts_at": starts_at, "body": body, "decision_id": None}
        rows.append(row | {"status": "firing", "received_at": starts_at + 5})
        if ends_at:
            rows.append(row | {"status": "resolved", "received_at": ends_at})
    return rows


def decision_rows(*, hostile: bool = False) -> list[dict[str, Any]]:
    rows = []
    for name, at, verdict, reason, retrain in (
        ("EvergreenWindowDrift", NOW - 5.5 * HOUR, "refused", "over", None),
        ("EvergreenDrift", RETRAIN, "started", "harm", 1),
        (HOSTILE if hostile else "EvergreenEstimatedAccuracyLow", RETRAIN + 200, "joined", "running", 1),
    ):
        rows.append(
            {
                "fingerprint": name.lower(), "starts_at": at - 60, "alertname": name, "version": 1, "is_over": True,
                "verdict": verdict, "reason": reason, "at": at, "received_wall": at - 50, "received_mono": 0.0,
                "received_boot": "b", "facts": "{}", "retrain_id": retrain,
            }
        )  # fmt: skip
    return rows


RETRAIN_ROW = {
    "id": 1, "decision_id": 2, "model": "evergreen", "state": "done", "step": "promote", "attempt": 1, "owner": None, "fence": 1,
    "lease_wall": 0.0, "lease_mono": 0.0, "lease_boot": "b", "began_wall": RETRAIN, "began_mono": 0.0, "began_boot": "b",
    "ended_wall": PROMOTED, "version_in": 1, "version_out": 2, "labels": 80, "feedback_upto": 1, "progress": "",
}  # fmt: skip


def step_rows() -> list[dict[str, Any]]:
    moments = np.linspace(RETRAIN, PROMOTED, 6).tolist()
    return [
        {
            "retrain_id": 1, "step": step, "attempt": 1, "fence": 1, "began_at": moments[number], "ended_at": moments[number + 1],
            "outcome": "done", "detail": "",
        }
        for number, step in enumerate(("collect", "reproduce", "gate", "publish", "promote"))
    ]  # fmt: skip


def label_rows() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield labels from people, and whether the prediction was right."""
    rng = np.random.default_rng(3)
    for number, at in enumerate(np.arange(NOW - 5.9 * HOUR, NOW, 150.0).tolist(), start=1):
        version = version_at(at)
        yield (
            {
                "id": number, "prediction_id": f"p{number}", "label": "refund", "kind": "label", "labeller": "ann",
                "received_at": datetime.fromtimestamp(at, UTC), "version": version,
            },
            {
                "prediction_id": f"p{number}", "version": version, "correct": bool(rng.random() < accuracy_at(at)),
                "feedback_id": number,
            },
        )  # fmt: skip
