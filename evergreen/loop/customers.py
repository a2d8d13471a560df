"""The people of the loop, played by a script: customers who write in the order of a time line, and two who label what they wrote.

The labels of the time line are the truth. Customers do not send them, and the annotators hand them in by `POST /v1/feedback`, as
people would; nothing else of the loop but its scorecard reads them.
"""

import threading
import time
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any, NamedTuple, Self

from serving.loadtest.replay import post

ANNOTATORS = ("ana", "ben")  # a label that the model does not have needs retrain.proposal_people
DRIFT = "drift"  # phase of a row that comes after the shop began to sell something new


class Asked(NamedTuple):
    """A message that was sent, and what came back."""

    at_s: float  # since the loop began
    text: str
    truth: str
    is_new: bool  # of the time after the launch
    id: str
    said: str
    version: int  # 0: not answered
    failure: str

    @property
    def is_right(self) -> bool:
        """Whether the answer is what the writer meant."""
        return self.version > 0 and self.said == self.truth


class Customers:
    """Sends in a thread of its own, `per_s` messages a second and at most `until` of them; both may be changed meanwhile."""

    def __init__(self, rows: Sequence[dict[str, Any]], url: str, zero_s: float) -> None:
        self.total = len(rows)
        self.per_s, self.until = 1.0, self.total
        self.asked: list[Asked] = []
        self._rows, self._url, self._zero_s = rows, url, zero_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._send, name="customers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def so_far(self) -> list[Asked]:
        """What was asked until now; `asked` itself grows while one reads it."""
        return list(self.asked)

    def _send(self) -> None:
        due_s = time.monotonic()
        for number, row in enumerate(self._rows):
            while number >= self.until and not self._is_over.wait(0.05):
                due_s = time.monotonic()
            if self._is_over.wait(max(0.0, due_s - time.monotonic())):
                return
            due_s = max(due_s + 1 / self.per_s, time.monotonic() - 1)
            self.asked.append(self._ask(row))

    def _ask(self, row: dict[str, Any]) -> Asked:
        at_s = time.monotonic() - self._zero_s
        sent = at_s, row["text"], row["label"], row["phase"] == DRIFT
        try:
            (answer,) = post(f"{self._url}/v1/predict", {"text": row["text"], "unit": row["unit"]})["predictions"]
            return Asked(*sent, answer["id"], answer["label"], answer["version"], "")
        except (OSError, HTTPException, ValueError) as error:
            return Asked(*sent, "", "", 0, str(error))


class Annotators:
    """Once they are told to, each of them labels each new message, in a thread of its own, until the block ends."""

    def __init__(self, asked: Sequence[Asked], url: str) -> None:
        self.labelled, self.failures = dict.fromkeys(ANNOTATORS, 0), list[str]()
        self._asked, self._url = asked, url
        self._are_told, self._is_over = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=self._label, args=(person,), name=person, daemon=True) for person in ANNOTATORS]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._are_told.set()
        for thread in self._threads:
            thread.join()

    def begin(self) -> None:
        """They have read the alert."""
        self._are_told.set()

    def _label(self, person: str) -> None:
        self._are_told.wait()
        number = 0
        while not self._is_over.wait(0 if number < len(self._asked) else 0.2):
            for one in self._asked[number:]:
                number += 1
                if one.is_new and one.version and not self._is_over.is_set():
                    self._hand_in(one, person)

    def _hand_in(self, one: Asked, person: str) -> None:
        try:
            post(f"{self._url}/v1/feedback", {"id": one.id, "label": one.truth, "source": person})
            self.labelled[person] += 1
        except (OSError, HTTPException, ValueError) as error:
            self.failures.append(str(error))
