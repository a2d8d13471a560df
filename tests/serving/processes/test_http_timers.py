"""The times of a connection, on a clock that stands still: the protocol with a transport and a loop of its own."""

from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from pipeline.params import load_params
from serving.processes.http_connections import OpenConnections
from serving.processes.http_protocol import BoundedHttpProtocol
from tests.raw_http import get, post

LIMITS = load_params().http.model_copy(update={"head_within_s": 7.0, "body_within_s": 9.0, "max_head_bytes": 1000})
KEEP_ALIVE_S = 75


class Timer:
    """A timer that the test fires."""

    def __init__(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.delay_s, self.callback = delay_s, callback
        self.is_running = True

    def cancel(self) -> None:
        self.is_running = False


class Task:
    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)


class Loop:
    """Keeps tasks and timers."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []
        self.tasks: list[Coroutine[Any, Any, None]] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(delay_s, callback))
        return self.timers[-1]

    def create_task(self, work: Coroutine[Any, Any, None], **_: Any) -> Task:
        self.tasks.append(work)
        return Task()

    def run_tasks(self) -> None:
        """Run each task as far as it goes."""
        while self.tasks:
            with suppress(StopIteration):
                self.tasks.pop(0).send(None)

    def running(self) -> list[float]:
        return [timer.delay_s for timer in self.timers if timer.is_running]

    def fire(self) -> None:
        (timer,) = [timer for timer in self.timers if timer.is_running]
        timer.is_running = False
        timer.callback()


class Transport:
    def __init__(self) -> None:
        self.sent, self.end = b"", ""

    def get_extra_info(self, name: str) -> Any:
        return ["127.0.0.1", 1] if name == "peername" else None

    def write(self, data: bytes) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return bool(self.end)

    def close(self) -> None:
        self.end = self.end or "closed"

    def abort(self) -> None:
        self.end = "aborted"

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Never:
    """Is not there yet, whenever it is awaited."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class Connection:
    """A connection to an app that answers 200 without reading, or never (`/wait`)."""

    def __init__(self) -> None:
        self.loop, self.transport, self.refused = Loop(), Transport(), list[str]()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] == "/wait":
                await Never()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})

        config = uvicorn.Config(app, ws="none", timeout_keep_alive=KEEP_ALIVE_S, log_config=None)
        self.protocol = BoundedHttpProtocol(
            limits=LIMITS,
            connections=OpenConnections(4, 4),
            refused=self.refused.append,
            config=config,
            server_state=ServerState(),
            app_state={},
            _loop=self.loop,
        )
        self.protocol.connection_made(self.transport)  # type: ignore[arg-type]

    def receive(self, data: bytes) -> None:
        self.protocol.data_received(data)
        self.loop.run_tasks()


@pytest.fixture
def connection() -> Connection:
    return Connection()


def test_a_new_connection_has_a_time_for_its_first_head_and_ends_in_silence(connection: Connection) -> None:
    assert connection.loop.running() == [7.0]
    connection.loop.fire()
    assert (connection.transport.end, connection.transport.sent, connection.refused) == ("closed", b"", [])


def test_a_whole_head_stops_the_time_and_an_answer_starts_that_of_an_idle_connection(connection: Connection) -> None:
    connection.receive(get()[:10])
    assert connection.loop.running() == [7.0]
    connection.receive(get()[10:])
    assert connection.transport.sent.startswith(b"HTTP/1.1 200")
    assert connection.loop.running() == [KEEP_ALIVE_S]
    connection.loop.fire()
    assert connection.transport.end == "closed"


@pytest.mark.parametrize("beginning", [b"G", b"\r", b"GET / HTTP/1.1\r\nHost: x\r\nX"])
def test_the_first_byte_of_a_later_head_starts_its_time_and_further_bytes_do_not_extend_it(
    connection: Connection, beginning: bytes
) -> None:
    connection.receive(get())
    connection.receive(beginning)
    connection.receive(b"\n" if beginning == b"\r" else b"E")
    assert connection.loop.running() == [7.0] and len(connection.loop.timers) == 3
    connection.loop.fire()
    assert connection.transport.end == "closed"
    assert b"HTTP/1.1 408" in connection.transport.sent and connection.refused == ["head_time"]


def test_the_rest_of_a_body_that_nobody_reads_has_no_more_time_than_a_head(connection: Connection) -> None:
    connection.receive(post("/", b"1" * 100)[:-50])
    assert connection.transport.sent.startswith(b"HTTP/1.1 200")
    connection.receive(b"1" * 10)
    connection.receive(b"1" * 10)
    assert connection.loop.running() == [7.0]
    connection.loop.fire()
    assert connection.transport.end == "closed"


def test_a_request_that_is_being_answered_has_no_time(connection: Connection) -> None:
    connection.receive(get("/wait"))
    assert connection.loop.running() == []


def test_a_peer_has_a_time_to_read_and_is_then_disconnected(connection: Connection) -> None:
    connection.receive(get("/wait"))
    connection.protocol.pause_writing()
    connection.protocol.resume_writing()
    assert connection.loop.running() == []
    connection.protocol.pause_writing()
    assert connection.loop.running() == [9.0]
    connection.loop.fire()
    assert connection.transport.end == "aborted"


def test_a_lost_connection_leaves_no_timer(connection: Connection) -> None:
    connection.receive(get())
    connection.receive(b"GET /")
    connection.protocol.pause_writing()
    connection.protocol.connection_lost(None)
    assert connection.loop.running() == []
