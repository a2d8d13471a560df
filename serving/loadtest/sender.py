"""The open loop: every request is sent at its time, answered or not, and ends in exactly one status."""

import asyncio
import resource
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.errors import InputError
from serving.loadtest.connection import NO_REQUEST, LoadConnection
from serving.loadtest.plan import Load
from serving.loadtest.targets import UNREADABLE_BODY, Answer
from serving.loadtest.timer import Timer

PENDING, TIMEOUT, REFUSED, LOST, UNREADABLE = 0, -1, -2, -3, -4
ENDS = {TIMEOUT: "timeout", REFUSED: "no connection", LOST: "connection lost", UNREADABLE: "unreadable answer"}
BURST = 64  # sends in a row before answers are read again
SWEEP_S = 0.02
STALE_S = 2.0  # servers close idle connections (uvicorn after 5 s): one that old may be closing while we write to it
LEAD_S = 0.05


class GiveUp(NamedTuple):
    """The condition to stop a run early: one failed request, or more than `allowed` slower than `limit_s`."""

    limit_s: float
    since_s: float  # requests meant to be sent earlier do not count
    allowed: int


class Wire(NamedTuple):
    """N encoded requests, their send times, and the reader of a 2xx answer."""

    address: tuple[str, int]
    requests: Sequence[bytes]
    at_s: Sequence[float]  # after the start
    read: Callable[[bytes, int], Answer]


class Outcomes(NamedTuple):
    """The outcome of every request sent, in order: HTTP status or one of `ENDS`."""

    status: list[int]
    took_s: list[float]  # from the intended send time to the end, successful or not
    late_s: list[float]  # how late it was sent
    answers: list[Answer | None]
    waited: int  # requests that found no free connection and could not open another
    cpu_s: float
    interrupted: bool


class Sender:
    """The state of one run; `on_second(seconds, sent, ended, failed)` is called about once a second."""

    connection_class = LoadConnection

    def __init__(self, wire: Wire, load: Load, give_up: GiveUp | None, on_second: Callable[[float, int, int, int], None]) -> None:
        count = len(wire.requests)
        self._wire, self._load, self._give_up, self._on_second = wire, load, give_up, on_second
        self._loop = asyncio.get_running_loop()
        self._finished = asyncio.Event()
        self._due_s: list[float] = []  # intended times on the clock
        self._status, self._took_s, self._late_s = [PENDING] * count, [0.0] * count, [0.0] * count
        self._answers: list[Answer | None] = [None] * count
        self._connection_of: list[LoadConnection | None] = [None] * count
        self._sent = self._ended = self._failed = self._waited = 0
        self._end = count  # smaller when the run is stopped early
        self._idle: list[LoadConnection] = []  # last in, first out: few connections stay warm
        self._waiting: deque[int] = deque()
        self._open = 0
        self._sweep_handle: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._oldest = self._checked = self._slow = self._seconds = 0

    async def run(self) -> Outcomes:
        """Send all and wait for every end; a cancelled task stops sending and waits for the requests in flight."""
        await self._open_some()
        self._timer = Timer(self._loop, self._send_due)
        interrupted, cpu_s = False, time.thread_time()
        self._start_s = time.monotonic() + LEAD_S + 1e-7 * len(self._wire.at_s)  # the next line takes time
        self._due_s = [self._start_s + at for at in self._wire.at_s]
        try:
            self._timer.set(self._due_s[0])
            self._sweep()
            await self._finished.wait()
        except asyncio.CancelledError:
            interrupted = True
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            self._stop()
            await self._finished.wait()
        finally:
            cpu_s = time.thread_time() - cpu_s
            self._close()
        end = self._end
        return Outcomes(
            self._status[:end], self._took_s[:end], self._late_s[:end], self._answers[:end], self._waited, cpu_s, interrupted
        )

    def on_open(self, connection: LoadConnection) -> None:
        self._next(connection, time.monotonic())

    def on_answer(self, connection: LoadConnection, request: int, status: int, now_s: float) -> None:
        if 200 <= status < 300:
            try:
                self._answers[request] = self._wire.read(connection.body, connection.json_bytes)
            except UNREADABLE_BODY:
                status = UNREADABLE
        self._record(request, status, now_s)
        if connection.keep:
            self._next(connection, now_s)

    def on_unreadable(self, request: int) -> None:
        self._record(request, UNREADABLE, time.monotonic())

    def on_closed(self, connection: LoadConnection, request: int) -> None:
        self._open -= 1
        if request != NO_REQUEST:
            self._record(request, LOST, time.monotonic())
        if self._waiting:
            self._connect()

    def _send_due(self) -> None:
        sent, due_s, stop = self._sent, self._due_s, min(self._end, self._sent + BURST)
        while sent < stop and due_s[sent] <= (now_s := time.monotonic()):
            self._late_s[sent] = now_s - due_s[sent]
            self._dispatch(sent, now_s)
            sent += 1
        self._sent = sent
        if sent < self._end:
            self._timer.set(due_s[sent])
        else:
            self._timer.close()

    def _dispatch(self, request: int, now_s: float) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.keep and now_s - connection.idle_since_s < STALE_S:
                self._connection_of[request] = connection
                connection.send(request, self._wire.requests[request])
                return
            connection.drop()
        self._waiting.append(request)
        self._waited += not self._connect()

    def _next(self, connection: LoadConnection, now_s: float) -> None:
        """Give a free connection to the request that has waited longest, or make it idle."""
        while self._waiting:
            request = self._waiting.popleft()
            if self._status[request] == PENDING:
                self._connection_of[request] = connection
                connection.send(request, self._wire.requests[request])
                return
        connection.idle_since_s = now_s
        self._idle.append(connection)

    def _connect(self) -> bool:
        """Open one more connection; returns False when no more are allowed."""
        if self._open >= self._load.connections:
            return False
        self._open += 1
        task = self._loop.create_task(self._try_to_connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _try_to_connect(self) -> None:
        try:
            await self._loop.create_connection(lambda: self.connection_class(self), *self._wire.address)
        except OSError:
            self._open -= 1
            self._fail_one()
            if self._waiting:
                self._connect()

    def _fail_one(self) -> None:
        while self._waiting:
            request = self._waiting.popleft()
            if self._status[request] == PENDING:
                self._record(request, REFUSED, time.monotonic())
                return

    async def _open_some(self) -> None:
        """Open connections for the first requests; refused connections show when requests end."""
        raise_file_limit(self._load.connections)
        for _ in range(min(self._load.connections, 16 + int(self._load.rate_per_s / 20))):
            self._connect()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._load.timeout_s)

    def _record(self, request: int, status: int, now_s: float) -> None:
        self._status[request] = status
        self._took_s[request] = now_s - self._due_s[request]
        self._connection_of[request] = None
        self._ended += 1
        self._failed += not 200 <= status < 300
        if self._ended >= self._end:
            self._finished.set()

    def _sweep(self) -> None:
        """Every 20 ms: time out old requests, stop a hopeless run, report progress."""
        now_s = time.monotonic()
        horizon_s = now_s - self._load.timeout_s
        while self._oldest < self._sent and self._due_s[self._oldest] <= horizon_s:
            if self._status[self._oldest] == PENDING:
                connection = self._connection_of[self._oldest]
                self._record(self._oldest, TIMEOUT, now_s)
                if connection is not None:
                    connection.drop()
            self._oldest += 1
        if self._give_up and self._is_hopeless(self._give_up, now_s):
            self._stop()
        if now_s - self._start_s >= self._seconds + 1:
            self._seconds = int(now_s - self._start_s)
            self._on_second(now_s - self._start_s, self._sent, self._ended, self._failed)
        if not self._finished.is_set():
            self._sweep_handle = self._loop.call_later(SWEEP_S, self._sweep)

    def _is_hopeless(self, give_up: GiveUp, now_s: float) -> bool:
        while self._checked < self._sent and self._due_s[self._checked] + give_up.limit_s < now_s:
            request = self._checked
            if self._due_s[request] - self._start_s >= give_up.since_s:
                status = self._status[request]
                if status != PENDING and not 200 <= status < 300:
                    return True
                self._slow += status == PENDING or self._took_s[request] > give_up.limit_s
            self._checked += 1
        return self._slow > give_up.allowed

    def _stop(self) -> None:
        """Send no more."""
        self._end = min(self._end, self._sent)
        self._timer.close()
        if self._ended >= self._end:
            self._finished.set()

    def _close(self) -> None:
        self._timer.close()
        if self._sweep_handle is not None:
            self._sweep_handle.cancel()
        for task in self._tasks:
            task.cancel()
        self._waiting.clear()
        for connection in self._idle:
            connection.drop()


def raise_file_limit(connections: int) -> None:
    """Raise this process's limit of open files for so many connections; raises `InputError` when the system forbids it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + 256
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise InputError("connections", f"{connections} are more than this system's limit of {hard} open files", "ask for fewer")
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
