"""A gateway as the model of a batch: sends texts in calls that it can answer in time, and waits when it is busy or restarts."""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.errors import InputError, ToolError
from serving.batch_prediction.predict_rows import RowAnswer, unanswered
from serving.gateway_client import Reply, Send

CALLS = 2  # at once: one is answered while the next is sent
CALL_TEXTS = 64  # the most that a gateway with our params accepts
GIVE_UP_S = 120.0  # without any answer
WAIT_S = 1.0  # before the next try, where the answer names no time
TEXT_FAULTS = ("text_empty", "text_too_long", "text_not_valid")  # codes of errors that are the text's own
TRY_AGAIN = (408, 429, 502, 503, 504)
TOO_MUCH = 413
START_IT = "start it: make serve; or predict without a gateway: leave --gateway out"


class GatewayModel:
    """Asks the gateway's champion. Its routing between versions does not apply: all rows are answered by one version.

    Where a new champion with the same labels takes over, the rest is answered by that. A gateway that has answered once is waited
    for; where nothing answers the very first request, the address or the gateway is missing, and waiting would not help.
    """

    chunk, calls, is_remote = CALL_TEXTS, CALLS, True

    def __init__(
        self,
        url: str,
        send: Send,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._send, self._sleep, self._clock = url, send, sleep, clock
        self._answered_at = clock()  # by either thread
        self._has_answered = False
        self._call_texts = self._most_texts = CALL_TEXTS
        self._routes_lock = threading.Lock()
        self.labels: Sequence[str] = ()
        self.version = 0
        self.labels, self.version = self._read_routes()

    def predict(self, texts: Sequence[str]) -> list[RowAnswer]:
        """Return an answer for each text; raise `ToolError` when the gateway gives none for `GIVE_UP_S`."""
        answers: list[RowAnswer] = []
        while len(answers) < len(texts):
            part = texts[len(answers) : len(answers) + self._call_texts]
            answers += self._predict_part(part)
        return answers

    def _predict_part(self, texts: Sequence[str]) -> list[RowAnswer]:
        """Answer the first of these texts, as many as the gateway takes in one call."""
        begun = self._clock()
        while True:
            version = self.version
            body = {"texts": list(texts), "version": version, "probabilities": True}
            reply = self._send("POST", "/v1/predict", json.dumps(body, ensure_ascii=False).encode())
            if reply.status == 200:
                self._answered_at = self._clock()
                self._call_texts = min(self._most_texts, self._call_texts + 1)
                return [_read_answer(prediction, self.labels) for prediction in reply.body["predictions"]]
            if reply.status == 422 and reply.code not in TEXT_FAULTS:
                raise InputError(
                    self._url, f"the gateway refuses our request: {reply.message}", "update the gateway, or this project"
                )
            if reply.status in (422, TOO_MUCH) and len(texts) == 1:
                return [unanswered(f"the gateway refuses the text: {reply.message}")]
            if reply.code == "version_not_served":
                self._follow_champion(version, begun)
            elif reply.status == TOO_MUCH:
                self._call_texts = self._most_texts = len(texts) // 2
                texts = texts[: self._call_texts]
            elif reply.status == 422:
                texts = texts[: len(texts) // 2]
            else:
                self._wait(reply, begun)
                self._call_texts = max(1, self._call_texts // 2)  # as AIMD does: halve when busy, grow by one text
                texts = texts[: self._call_texts]

    def _wait(self, reply: Reply, begun: float) -> None:
        """Wait before the next try; raise when another try cannot help. `begun`: when the caller asked first."""
        if reply.status in (401, 403):
            raise InputError(self._url, reply.message, "set EVERGREEN_TOKEN to a token with the scope predict")
        if reply.status not in (0, *TRY_AGAIN):
            raise ToolError(self._url, f"the gateway answered {reply.status}: {reply.message}", "look into the gateway's log")
        if self._clock() - max(begun, self._answered_at) > GIVE_UP_S:
            raise ToolError(self._url, f"no answer for {GIVE_UP_S:.0f} seconds: {reply.message}", START_IT)
        self._sleep(reply.retry_after_s or WAIT_S)

    def _follow_champion(self, gone: int, begun: float) -> None:
        """Ask the new champion when the version is not served any more; raise `ToolError` when its labels differ.

        Wait where the version is still champion: during a swap the gateway knows sooner than its routes do.
        """
        with self._routes_lock:
            if self.version != gone:
                return  # the other thread has done it
            labels, version = self._read_routes()
            if version == gone:
                self._wait(Reply(503, {}, WAIT_S, f"version {gone} is champion, but is not served"), begun)
            elif list(labels) != list(self.labels):
                what = f"version {gone} is not served any more, and version {version} has other labels"
                raise ToolError(self._url, what, "run the command again: it will ask the new version for all rows")
            self.version = version

    def _read_routes(self) -> tuple[Sequence[str], int]:
        begun = self._clock()
        while True:
            reply = self._send("GET", "/v1/routes", None)
            if not reply.status and not self._has_answered:
                raise ToolError(self._url, f"no gateway answers there: {reply.message}", START_IT)
            self._has_answered = True
            if reply.status == 200 and reply.body.get("champion") and reply.body.get("labels"):
                return [str(label) for label in reply.body["labels"]], int(reply.body["champion"])
            if reply.status == 404:
                raise InputError(self._url, "there is no gateway at this address", "name its address: http://127.0.0.1:8080")
            no_champion = Reply(503, {}, WAIT_S, "no version is served yet")
            self._wait(no_champion if reply.status == 200 else reply, begun)


def _read_answer(prediction: Mapping[str, Any], labels: Sequence[str]) -> RowAnswer:
    shares = prediction["probabilities"]
    reason = prediction.get("reason") or ""
    return RowAnswer(
        prediction["label"], prediction["confidence"], [shares[name] for name in labels], prediction["version"], reason
    )
