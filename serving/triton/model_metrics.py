"""Read the metrics that a Triton exports about one model."""

import re
import urllib.request

from pipeline.params import Serve


def model_traffic(serve: Serve, model: str) -> tuple[float, float]:
    """Return how many requests the model has had and how many are queued; (0, 0) without metrics."""
    page = _page(serve)
    requests = _sum(page, model, "nv_inference_request_success", "nv_inference_request_failure")
    return requests, _sum(page, model, "nv_inference_pending_request_count")


def text_seconds(serve: Serve, model: str) -> float | None:
    """Return the seconds that the model has computed for each text, on average; None before the first one."""
    page = _page(serve)
    texts = _sum(page, model, "nv_inference_count")
    return _sum(page, model, "nv_inference_compute_infer_duration_us") / 1e6 / texts if texts else None


def _page(serve: Serve) -> str:
    """Return the server's metrics; empty when it exports none."""
    try:
        with urllib.request.urlopen(f"http://{serve.host}:{serve.metrics_port}/metrics", timeout=5) as page:
            text: str = page.read().decode()
    except OSError:
        return ""
    return text


def _sum(page: str, model: str, *names: str) -> float:
    """Return the sum of these metrics of a model, over its labels."""
    named = "|".join(names)
    return sum(map(float, re.findall(rf'^(?:{named}){{[^}}]*model="{model}"[^}}]*}} (\S+)$', page, re.MULTILINE)))
