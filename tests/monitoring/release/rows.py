"""Rows of releases as the database stores them."""

import json
import time
from typing import Any


def release_row(retrain_id: int = 7, **columns: Any) -> dict[str, Any]:
    """Return a release of version 2 in its shadow stage."""
    now = time.time()
    row: dict[str, Any] = {
        "retrain_id": retrain_id, "version": 2, "champion": 1, "salt": "pepper", "stage": "shadow", "rung": 0, "wish": "none",
        "evidence": {}, "began_at": now - 120, "stage_began_at": now - 120, "looked_at": now - 1, "outcome": None,
        "reason": None, "broken": None, "examples": [], "ended_at": None,
    } | columns  # fmt: skip
    return row | {"evidence": json.dumps(row["evidence"]), "examples": json.dumps(row["examples"])}
