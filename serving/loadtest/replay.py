"""`make traffic`: sends a time line through the gateway, text after text in its order, as its customers would, only quicker.

With `--labels` it also plays the annotators: a share of the answers, drawn by lot, gets the label of the file as feedback.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from pipeline.errors import InputError, ToolError, run_stage
from pipeline.params import load_params

TIMEOUT_S = 10.0
TOLD_EVERY_S = 15.0


class Sent(NamedTuple):
    """What became of the texts so far."""

    texts: int
    failed: int
    labels: int  # given as feedback


def read_traffic(path: Path) -> list[dict[str, Any]]:
    """Rows of a jsonl file with `text` and, where known, `unit`, `label` and `phase`; raises `InputError` naming the line."""
    if not path.is_file():
        raise InputError(str(path), "there is no such file", "name a jsonl file, such as data/traffic.jsonl")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            fine = isinstance(row["text"], str)
        except (ValueError, KeyError, TypeError):
            fine = False
        if not fine:
            raise InputError(f"{path}, line {number}", "it is no JSON object with a text", "mend the line or take it out")
        rows.append(row)
    return rows


def replay(
    rows: Iterable[dict[str, Any]],
    url: str,
    *,
    rate_per_s: float,
    label_share: float,
    lot: random.Random,
    say: Callable[[str], None],
) -> Iterator[Sent]:
    """Send one text each 1 / `rate_per_s` seconds, or as fast as they are answered; what fails is told, counted and left."""
    sent, phases, due_s = Sent(0, 0, 0), set[str](), time.monotonic()
    for row in rows:
        time.sleep(max(0.0, due_s - time.monotonic()))
        due_s = max(due_s + 1 / rate_per_s, time.monotonic() - 1)  # after an outage the pace goes on; it does not catch up
        phase = str(row.get("phase", ""))
        if phase not in phases:
            say(f"the first text of the phase “{phase}”, number {sent.texts + 1}")
            phases.add(phase)
        named = {"unit": row["unit"]} if row.get("unit") else {}
        is_labelled = "label" in row and lot.random() < label_share
        try:
            (answer,) = post(f"{url}/v1/predict", {"text": row["text"], **named})["predictions"]
            if is_labelled:
                post(f"{url}/v1/feedback", {"id": answer["id"], "label": row["label"]})
            sent = Sent(sent.texts + 1, sent.failed, sent.labels + is_labelled)
        except (OSError, HTTPException) as error:
            if not sent.failed:
                say(f"number {sent.texts + 1} was not answered, and is not sent again: {error}")
            sent = sent._replace(texts=sent.texts + 1, failed=sent.failed + 1)
        yield sent


def require_gateway(url: str) -> None:
    """Raises `ToolError` where no gateway is ready."""
    try:
        with urlopen(f"{url}/readyz", timeout=TIMEOUT_S):  # noqa: S310 (the gateway of params)
            return
    except HTTPError as error:
        raise ToolError(url, f"the gateway is not ready ({error.code})", "wait until make serve says that it answers") from None
    except OSError as error:
        why = getattr(error, "reason", error)
        raise ToolError(url, f"no gateway answers there: {why}", "start one: make serve") from None


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """What the gateway answers; raises `OSError`, `HTTPException` or `ValueError` where it does not."""
    request = Request(url, json.dumps(body).encode(), {"content-type": "application/json"})  # noqa: S310 (the gateway of params)
    with urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        said: dict[str, Any] = json.loads(answer.read() or b"{}")
        return said


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="jsonl with text, and unit, label, phase where they are known")
    parser.add_argument("--rate", type=float, default=4.0, help="texts a second")
    parser.add_argument("--labels", type=float, default=0.0, help="share of the answers that get the file's label as feedback")
    parser.add_argument("--seed", type=int, default=1, help="of the lot that says which")
    asked = parser.parse_args()
    if asked.rate <= 0 or not 0 <= asked.labels <= 1:
        parser.error("--rate is above 0, --labels between 0 and 1")
    return asked


def main() -> None:
    """`python -m serving.loadtest.replay data/traffic.jsonl`."""
    asked, gateway = _arguments(), load_params().gateway
    rows, url = read_traffic(asked.file), f"http://{gateway.host}:{gateway.port}"
    require_gateway(url)

    def say(line: str) -> None:
        print(f"· {time.strftime('%H:%M:%S')}  {line}", flush=True)

    minutes = len(rows) / asked.rate / 60
    say(f"{len(rows)} texts of {asked.file} to {url}, {asked.rate:g} a second: {minutes:.0f} min; Ctrl-C stops it")
    sent, told_at = Sent(0, 0, 0), time.monotonic()
    try:
        for sent in replay(rows, url, rate_per_s=asked.rate, label_share=asked.labels, lot=random.Random(asked.seed), say=say):  # noqa: S311
            if time.monotonic() - told_at >= TOLD_EVERY_S:
                say(f"{sent.texts} of {len(rows)} sent, {sent.failed} not answered, {sent.labels} labels given")
                told_at = time.monotonic()
    except KeyboardInterrupt:
        print()
    say(f"ended: {sent.texts} sent, {sent.failed} not answered, {sent.labels} labels given")
    sys.exit(1 if sent.failed and sent.failed == sent.texts else 0)


if __name__ == "__main__":
    run_stage(main)
