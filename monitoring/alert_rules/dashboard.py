"""The Grafana dashboard's JSON: places the panels in a grid and renders each.

Source: Grafana's dashboard JSON model, schema version 36 (Grafana 9 and newer read and migrate it).
"""

import json
from collections.abc import Iterator
from typing import Any

from monitoring.alert_rules.panels import Panel, PanelRow, dashboard_rows
from monitoring.alert_rules.queries import FIRING
from monitoring.alert_rules.release_panels import release_panels
from pipeline.params import Params

UID, TITLE = "evergreen", "Evergreen"
COLUMNS, HEIGHT = 24, 8
SOURCE = {"type": "prometheus", "uid": "${source}"}


def render_dashboard(params: Params) -> str:
    """Return the JSON that Grafana imports, or finds in a folder or a ConfigMap."""
    tree = {
        "uid": UID,
        "title": TITLE,
        "tags": ["evergreen"],
        "schemaVersion": 36,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]},
        "annotations": {"list": [alert_annotations()]},
        "panels": list(layout([*dashboard_rows(params), PanelRow("Releases", release_panels(params))])),
    }
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


def alert_annotations() -> dict[str, Any]:
    """Mark every firing alert on all panels."""
    return {
        "name": "alerts",
        "datasource": SOURCE,
        "enable": True,
        "expr": FIRING,
        "iconColor": "red",
        "titleFormat": "{{alertname}}",
        "textFormat": "{{signal}} {{version}}",
        "step": "60s",
    }


def layout(rows: list[PanelRow]) -> Iterator[dict[str, Any]]:
    """Place panels from left to right in rows of 24 columns, each row under its heading."""
    number, y = 0, 0
    for row in rows:
        number += 1
        heading = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": heading, "panels": []}
        x, y = 0, y + 1
        height = HEIGHT if row.panels[0].kind == "timeseries" else HEIGHT // 2
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + height
            number += 1
            yield render_panel(panel, number, {"h": height, "w": panel.width, "x": x, "y": y})
            x += panel.width
        y += height


def render_panel(panel: Panel, number: int, position: dict[str, int]) -> dict[str, Any]:
    """Return one panel in Grafana's form."""
    targets = [
        {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": query, "legendFormat": legend or "__auto"}
        for index, (legend, query) in enumerate(panel.queries.items())
    ]
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    steps += [{"color": "red", "value": panel.limit}] if panel.limit is not None else []
    custom = {"custom": {"thresholdsStyle": {"mode": "line" if panel.limit is not None else "off"}}}
    defaults = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "datasource": SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": defaults | (custom if panel.kind == "timeseries" else {}), "overrides": []},
        "targets": targets,
    }
