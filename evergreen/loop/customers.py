"""Simulated customers, who send the messages of a file in order. The labels of the file are the truth, which they do not send."""

import threading
import time
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any, NamedTuple, Self

from serving.loadtest.replay import post

DRIFT = "drift"  # phase of the rows after the launch


class CustomerMessage(NamedTuple):
    """A message that was sent, and its answer."""

    at_s: float  # since the loop began
    text: str
    truth: str
    is_new: bool  # sent after the launch
    id: str
    predicted: str
    version: int  # 0: not answered
    failure: str

    @property
    def is_correct(self) -> bool:
        return self.version > 0 and self.predicted == self.truth


class Customers:
    """A thread that sends `per_s` messages a second, and stops at `limit` of them; both may change at any time."""

    def __init__(self, rows: Sequence[dict[str, Any]], url: str, start_s: float) -> None:
        self.total = len(rows)
        self.per_s, self.limit = 1.0, self.total
        self.messages: list[CustomerMessage] = []
        self._rows, self._url, self._start_s = rows, url, start_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="customers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def snapshot(self) -> list[CustomerMessage]:
        """Return a copy of the messages so far; `messages` itself keeps growing."""
        return list(self.messages)

    def _send_all(self) -> None:
        due_s = time.monotonic()
        for number, row in enumerate(self._rows):
            while number >= self.limit and not self._is_over.wait(0.05):
                due_s = time.monotonic()
            if self._is_over.wait(max(0.0, due_s - time.monotonic())):
                return
            due_s = max(due_s + 1 / self.per_s, time.monotonic() - 1)
            self.messages.append(self._send(row))

    def _send(self, row: dict[str, Any]) -> CustomerMessage:
        at_s = time.monotonic() - self._start_s
        sent = at_s, row["text"], row["label"], row["phase"] == DRIFT
        try:
            (prediction,) = post(f"{self._url}/v1/predict", {"text": row["text"], "unit": row["unit"]})["predictions"]
            label = prediction.get("suggestion") or prediction["label"]  # the model's own, where it abstained
            return CustomerMessage(*sent, prediction["id"], label, prediction["version"], "")
        except (OSError, HTTPException, ValueError) as error:
            return CustomerMessage(*sent, "", "", 0, str(error))
