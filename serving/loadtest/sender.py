"""The open loop: every request is sent at its time, whether or not earlier ones were answered, and ends in exactly one status."""

import asyncio
import resource
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.errors import InputError
from serving.loadtest.alarm import Alarm
from serving.loadtest.connection import NO_REQUEST, Connection
from serving.loadtest.plan import Load
from serving.loadtest.targets import UNREADABLE_BODY, Answer

PENDING, TIMEOUT, REFUSED, LOST, UNREADABLE = 0, -1, -2, -3, -4
ENDS = {TIMEOUT: "timeout", REFUSED: "no connection", LOST: "connection lost", UNREADABLE: "unreadable answer"}
BURST = 64  # sends in a row before answers are looked at again
SWEEP_S = 0.02
STALE_S = 2.0  # servers close idle connections (uvicorn after 5 s): one that old may be closing while we write to it
LEAD_S = 0.05


class GiveUp(NamedTuple):
    """Stop as soon as a run cannot pass: one failed request, or more than `allowed` slower than `limit_s`."""

    limit_s: float
    since_s: float  # requests meant to be sent earlier do not count
    allowed: int


class Wire(NamedTuple):
    """N requests as bytes, their times after the start, and how to read a 2xx answer."""

    address: tuple[str, int]
    requests: Sequence[bytes]
    at_s: Sequence[float]
    read: Callable[[bytes, int], Answer]


class Booked(NamedTuple):
    """What became of the requests that were sent, in order: HTTP status or one of `ENDS`."""

    status: list[int]
    took_s: list[float]  # from the intended send time to the end, whichever it was
    late_s: list[float]  # how late we came to send it
    answers: list[Answer | None]
    waited: int  # requests for which no connection was free and no further one allowed
    cpu_s: float
    interrupted: bool


class Sender:
    """State of one run; `on_second(seconds, sent, ended, failed)` is called about once a second."""

    def __init__(self, wire: Wire, load: Load, give_up: GiveUp | None, on_second: Callable[[float, int, int, int], None]) -> None:
        count = len(wire.requests)
        self._wire, self._load, self._give_up, self._on_second = wire, load, give_up, on_second
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._due_s: list[float] = []  # intended times on the clock
        self._status, self._took_s, self._late_s = [PENDING] * count, [0.0] * count, [0.0] * count
        self._answers: list[Answer | None] = [None] * count
        self._carrier: list[Connection | None] = [None] * count
        self._sent = self._ended = self._failed = self._waited = 0
        self._end = count  # smaller when the run is stopped early
        self._idle: list[Connection] = []  # last in, first out: few connections stay warm
        self._waiting: deque[int] = deque()
        self._open = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._oldest = self._judged = self._slow = self._seconds = 0

    async def run(self) -> Booked:
        """Send all and wait for every end; a cancelled task stops sending, waits for what is on the way, and returns."""
        await self._open_some()
        self._alarm = Alarm(self._loop, self._send_due)
        interrupted, cpu_s = False, time.thread_time()
        self._start_s = time.monotonic() + LEAD_S + 1e-7 * len(self._wire.at_s)  # the next line takes its time
        self._due_s = [self._start_s + at for at in self._wire.at_s]
        try:
            self._alarm.set(self._due_s[0])
            self._sweep()
            await self._over.wait()
        except asyncio.CancelledError:
            interrupted = True
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            self._stop()
            await self._over.wait()
        finally:
            cpu_s = time.thread_time() - cpu_s
            self._close()
        end = self._end
        return Booked(
            self._status[:end], self._took_s[:end], self._late_s[:end], self._answers[:end], self._waited, cpu_s, interrupted
        )

    def on_open(self, connection: Connection) -> None:
        self._next(connection, time.monotonic())

    def on_answer(self, connection: Connection, request: int, status: int, now_s: float) -> None:
        if 200 <= status < 300:
            try:
                self._answers[request] = self._wire.read(connection.body, connection.json_bytes)
            except UNREADABLE_BODY:
                status = UNREADABLE
        self._book(request, status, now_s)
        if connection.keep:
            self._next(connection, now_s)

    def on_garbled(self, request: int) -> None:
        self._book(request, UNREADABLE, time.monotonic())

    def on_closed(self, connection: Connection, request: int) -> None:
        self._open -= 1
        if request != NO_REQUEST:
            self._book(request, LOST, time.monotonic())
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
            self._alarm.set(due_s[sent])
        else:
            self._alarm.close()

    def _dispatch(self, request: int, now_s: float) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.keep and now_s - connection.idle_since_s < STALE_S:
                self._carrier[request] = connection
                connection.send(request, self._wire.requests[request])
                return
            connection.drop()
        self._waiting.append(request)
        self._waited += not self._connect()

    def _next(self, connection: Connection, now_s: float) -> None:
        """Give a free connection to the request that has waited longest, or keep it for later."""
        while self._waiting:
            request = self._waiting.popleft()
            if self._status[request] == PENDING:
                self._carrier[request] = connection
                connection.send(request, self._wire.requests[request])
                return
        connection.idle_since_s = now_s
        self._idle.append(connection)

    def _connect(self) -> bool:
        """Open one more connection if it is allowed; whether it was."""
        if self._open >= self._load.connections:
            return False
        self._open += 1
        task = self._loop.create_task(self._try_to_connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _try_to_connect(self) -> None:
        try:
            await self._loop.create_connection(lambda: Connection(self), *self._wire.address)
        except OSError:
            self._open -= 1
            self._refuse_one()
            if self._waiting:
                self._connect()

    def _refuse_one(self) -> None:
        while self._waiting:
            request = self._waiting.popleft()
            if self._status[request] == PENDING:
                self._book(request, REFUSED, time.monotonic())
                return

    async def _open_some(self) -> None:
        """Connections for the first requests; a target that refuses them is told of when requests end."""
        allow_files(self._load.connections)
        for _ in range(min(self._load.connections, 16 + int(self._load.rate_per_s / 20))):
            self._connect()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._load.timeout_s)

    def _book(self, request: int, status: int, now_s: float) -> None:
        self._status[request] = status
        self._took_s[request] = now_s - self._due_s[request]
        self._carrier[request] = None
        self._ended += 1
        self._failed += not 200 <= status < 300
        if self._ended >= self._end:
            self._over.set()

    def _sweep(self) -> None:
        """Every 20 ms: end what waits too long, stop when there is no hope, tell how far we are."""
        now_s = time.monotonic()
        horizon_s = now_s - self._load.timeout_s
        while self._oldest < self._sent and self._due_s[self._oldest] <= horizon_s:
            if self._status[self._oldest] == PENDING:
                carrier = self._carrier[self._oldest]
                self._book(self._oldest, TIMEOUT, now_s)
                if carrier is not None:
                    carrier.drop()
            self._oldest += 1
        if self._give_up and self._is_hopeless(self._give_up, now_s):
            self._stop()
        if now_s - self._start_s >= self._seconds + 1:
            self._seconds = int(now_s - self._start_s)
            self._on_second(now_s - self._start_s, self._sent, self._ended, self._failed)
        if not self._over.is_set():
            self._timer = self._loop.call_later(SWEEP_S, self._sweep)

    def _is_hopeless(self, give_up: GiveUp, now_s: float) -> bool:
        while self._judged < self._sent and self._due_s[self._judged] + give_up.limit_s < now_s:
            request = self._judged
            if self._due_s[request] - self._start_s >= give_up.since_s:
                status = self._status[request]
                if status != PENDING and not 200 <= status < 300:
                    return True
                self._slow += status == PENDING or self._took_s[request] > give_up.limit_s
            self._judged += 1
        return self._slow > give_up.allowed

    def _stop(self) -> None:
        """Send no more."""
        self._end = min(self._end, self._sent)
        self._alarm.close()
        if self._ended >= self._end:
            self._over.set()

    def _close(self) -> None:
        self._alarm.close()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        self._waiting.clear()
        for connection in self._idle:
            connection.drop()


def allow_files(connections: int) -> None:
    """Raise this process's own limit of open files when so many connections need it; `InputError` when it cannot be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + 256
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise InputError("connections", f"{connections} are more than this system's {hard} open files", "ask for fewer")
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
