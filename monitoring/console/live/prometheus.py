"""Reads ranges of values from Prometheus. The only reader of Prometheus' HTTP API."""

import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

from monitoring.charts.lines import TimeAxis

WITHIN_S, AT_ONCE = 10.0, 4
MAX_BYTES = 16 * 2**20


class PrometheusError(Exception):
    """Prometheus does not answer, or refuses a query; the text says which."""


class Values(NamedTuple):
    """A series: its labels, and its (seconds of the epoch, value) without those that are not finite."""

    labels: Mapping[str, str]
    points: list[tuple[float, float]]


def read_ranges(url: str, queries: Mapping[str, str], axis: TimeAxis) -> dict[str, list[Values]]:
    """Return the series of each query by its name, a value for each step up to the end; raises `PrometheusError`."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        pending = {name: pool.submit(_read_range, url, query, axis) for name, query in queries.items()}
        return {name: future.result() for name, future in pending.items()}


def _read_range(url: str, query: str, axis: TimeAxis) -> list[Values]:
    steps = int((axis.end - axis.start) / axis.step_s)
    asked = {"query": query, "start": axis.end - steps * axis.step_s, "end": axis.end, "step": axis.step_s}
    try:
        with urlopen(f"{url}/api/v1/query_range?{urlencode(asked)}", timeout=WITHIN_S) as answer:  # noqa: S310 (http alone)
            body = json.loads(answer.read(MAX_BYTES))
        return [_values(series) for series in body["data"]["result"]]
    except HTTPError as error:
        raise PrometheusError(f"Prometheus at {url} refused a query with {error.code}: {error.read(300)!r}") from None
    except (OSError, HTTPException) as error:
        raise PrometheusError(f"Prometheus does not answer at {url}: {getattr(error, 'reason', error)}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise PrometheusError(f"what answers at {url} is not Prometheus: {error!r}") from None


def _values(series: Mapping[str, Any]) -> Values:
    points = [(float(at), float(value)) for at, value in series["values"]]
    return Values(series["metric"], [(at, value) for at, value in points if math.isfinite(value)])
