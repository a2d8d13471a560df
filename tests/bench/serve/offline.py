"""Run the packaged session without a server, in a child process that answers each JSON line with one.

`{"speed": seconds, "batch": 32, "session": name}` → `{"texts_per_s": …}`: batches of texts sorted by length, with the faster of
two layouts: one session on all cores, or one session on each core.
"""

import argparse
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from pipeline.cores import available_cores
from pipeline.errors import run_stage
from pipeline.runtime.classifier import Classifier
from pipeline.runtime.pieces import to_pieces
from pipeline.runtime.sessions import Session, open_session

PLAIN = "onnxruntime-fp32"
CALIBRATE_S = 1.0


def packaged_session(package: Path) -> str:
    """Return the name of the session that the package serves with."""
    config = model_config_pb2.ModelConfig()
    text_format.Parse((package / "config.pbtxt").read_text(encoding="utf-8"), config)
    return str(config.parameters["session"].string_value) or PLAIN


class Offline:
    """Run the model of one package on these texts; a session is opened when it is first needed."""

    def __init__(self, package: Path, texts: Sequence[str]) -> None:
        self._folder, self._cores = package / "1", available_cores()
        self._name = packaged_session(package)
        classifier = Classifier(self._folder, session=open_session(self._folder, self._name, self._cores))
        self._pieces = to_pieces(classifier.tokenizer, texts)
        self.best = cache(self._best)  # layout by session and batch size

    def speed(self, seconds: float, batch: int, session: str | None) -> float:
        """Return the texts a second with every core busy."""
        name = session or self._name
        return self._run(seconds, batch, self._open(name, self.best(name, batch)))

    def _best(self, name: str, batch: int) -> int:
        layouts = sorted({1, self._cores})
        return max(layouts, key=lambda threads: self._run(CALIBRATE_S, batch, self._open(name, threads)))

    def _open(self, name: str, threads: int) -> list[Session]:
        """Return as many sessions with this number of threads as fit on the cores."""
        return [open_session(self._folder, name, threads) for _ in range(self._cores // threads)]

    def _run(self, seconds: float, batch: int, sessions: Sequence[Session]) -> float:
        by_length = sorted(self._pieces, key=len) if batch > 1 else self._pieces
        batches = [by_length[start : start + batch] for start in range(0, len(by_length), batch)]
        order = np.random.default_rng(0).permutation(len(batches))
        turns = itertools.cycle([batches[i] for i in order])
        for session in sessions:
            for warm in (batches[0], batches[-1]):
                session(warm)
        counts = [0] * len(sessions)
        start = time.perf_counter()
        threads = [
            threading.Thread(target=_work, args=(turns, session, start + seconds, _add(counts, i)))
            for i, session in enumerate(sessions)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - start)


def _work(turns: "itertools.cycle[list[list[int]]]", session: Session, until: float, add: Callable[[int], None]) -> None:
    while time.perf_counter() < until:
        pieces = next(turns)
        session(pieces)
        add(len(pieces))


def _add(counts: list[int], at: int) -> Callable[[int], None]:
    def add(texts: int) -> None:
        counts[at] += texts

    return add


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True, help="a JSON list")
    args = parser.parse_args()
    offline = Offline(args.package, json.loads(args.texts.read_text(encoding="utf-8")))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps({"texts_per_s": offline.speed(request["speed"], request["batch"], request["session"])}), flush=True)


if __name__ == "__main__":
    run_stage(main)
