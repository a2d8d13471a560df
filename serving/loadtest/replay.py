"""`make traffic`: send the texts of a file through the gateway in order, as customers would, only faster.

With `--labels` it also labels: a random share of the answers gets the label of the file as feedback. Where the gateway asks for
a token, give it as `EVERGREEN_TOKEN`.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Iterable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from pipeline.errors import InputError, ToolError, run_stage
from pipeline.output.plain_text import print_line
from pipeline.params import load_params
from serving.access.bearer import bearer_header
from serving.processes import Announce
from serving.processes.addresses import base_url, reach_host

TIMEOUT_S = 10.0
PROGRESS_EVERY_S = 15.0


class Counts(NamedTuple):
    """Counts so far."""

    texts: int
    failed: int
    labels: int  # given as feedback


def read_traffic(path: Path) -> list[dict[str, Any]]:
    """Read a jsonl file of `text` and, where known, `unit`, `label` and `phase`; raises `InputError` naming the line."""
    if not path.is_file():
        raise InputError(str(path), "there is no such file", "name a jsonl file, such as data/traffic.jsonl")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            is_valid = isinstance(row["text"], str)
        except (ValueError, KeyError, TypeError):
            is_valid = False
        if not is_valid:
            raise InputError(f"{path}, line {number}", "it is not a JSON object with a text", "correct or remove the line")
        rows.append(row)
    return rows


def replay(
    rows: Iterable[dict[str, Any]],
    url: str,
    *,
    rate_per_s: float,
    label_share: float,
    rng: random.Random,
    announce: Announce,
) -> Iterator[Counts]:
    """Send a text every 1 / `rate_per_s` seconds, or as fast as they are answered; failures are announced and counted."""
    counts, phases, due_s = Counts(0, 0, 0), set[str](), time.monotonic()
    for row in rows:
        time.sleep(max(0.0, due_s - time.monotonic()))
        due_s = max(due_s + 1 / rate_per_s, time.monotonic() - 1)  # after an outage it keeps the pace and does not catch up
        phase = str(row.get("phase", ""))
        if phase not in phases:
            announce(f"first text of the phase “{phase}”, number {counts.texts + 1}")
            phases.add(phase)
        unit = {"unit": row["unit"]} if row.get("unit") else {}
        is_labelled = "label" in row and rng.random() < label_share
        try:
            (prediction,) = post(f"{url}/v1/predict", {"text": row["text"], **unit})["predictions"]
            if is_labelled:
                post(f"{url}/v1/feedback", {"id": prediction["id"], "label": row["label"]})
            counts = Counts(counts.texts + 1, counts.failed, counts.labels + is_labelled)
        except (OSError, HTTPException) as error:
            if not counts.failed:
                announce(f"number {counts.texts + 1} was not answered and is not sent again: {error}")
            counts = counts._replace(texts=counts.texts + 1, failed=counts.failed + 1)
        yield counts


def require_gateway(url: str) -> None:
    """Raise `ToolError` when no gateway is ready."""
    try:
        with urlopen(f"{url}/readyz", timeout=TIMEOUT_S):  # noqa: S310 (the gateway of params)
            return
    except HTTPError as error:
        raise ToolError(url, f"the gateway is not ready ({error.code})", "wait until make serve says that it answers") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ToolError(url, f"no gateway answers there: {reason}", "start one: make serve") from None


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Post a JSON body, with the token of the environment, and return the JSON answer.

    Raises `OSError`, `HTTPException` or `ValueError` when there is no answer.
    """
    headers = {"content-type": "application/json", **bearer_header()}
    request = Request(url, json.dumps(body).encode(), headers)  # noqa: S310 (the gateway of params)
    with urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
        answer: dict[str, Any] = json.loads(response.read() or b"{}")
        return answer


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="jsonl with text, and unit, label, phase where known")
    parser.add_argument("--rate", type=float, default=4.0, help="texts a second")
    parser.add_argument("--labels", type=float, default=0.0, help="share of the answers that get the file's label as feedback")
    parser.add_argument("--seed", type=int, default=1, help="seed of the choice of labelled answers")
    args = parser.parse_args()
    if args.rate <= 0 or not 0 <= args.labels <= 1:
        parser.error("--rate must be above 0, --labels between 0 and 1")
    return args


def main() -> None:
    """`python -m serving.loadtest.replay data/traffic.jsonl`."""
    args, gateway = _parse_arguments(), load_params().gateway
    rows, url = read_traffic(args.file), base_url(reach_host("gateway", gateway.host), gateway.port)
    require_gateway(url)

    def announce(line: str) -> None:
        print_line(f"· {time.strftime('%H:%M:%S')}  {line}")

    minutes = len(rows) / args.rate / 60
    announce(f"{len(rows)} texts of {args.file} to {url}, {args.rate:g} a second: {minutes:.0f} min; Ctrl-C stops it")
    rng = random.Random(args.seed)  # noqa: S311
    counts, announced_at = Counts(0, 0, 0), time.monotonic()
    try:
        for counts in replay(rows, url, rate_per_s=args.rate, label_share=args.labels, rng=rng, announce=announce):
            if time.monotonic() - announced_at >= PROGRESS_EVERY_S:
                announce(f"{counts.texts} of {len(rows)} sent, {counts.failed} not answered, {counts.labels} labels given")
                announced_at = time.monotonic()
    except KeyboardInterrupt:
        print_line("")
    announce(f"ended: {counts.texts} sent, {counts.failed} not answered, {counts.labels} labels given")
    sys.exit(1 if counts.failed and counts.failed == counts.texts else 0)


if __name__ == "__main__":
    run_stage(main)
