"""A server for tests of the load test, as a process of its own: `python -m tests.serving.loadtest.queue_server --service-ms 4`.

It answers as the gateway does, one request after the other, each `service_ms` after the previous one: a queue whose capacity
is known. It prints its port. A text that contains one of `FAULTS` triggers it.
"""

import argparse
import asyncio
import json
import time

FAULTS = (
    "pleaserefuse",  # 503
    "pleasehang",  # no answer
    "pleasereset",  # the connection is cut
    "pleasenonsense",  # a 200 that is no JSON
    "pleasegarbage",  # no HTTP
    "pleaseclose",  # the connection is closed after the answer
    "pleasemislabel",  # another label
)


class Queue:
    """Computes when each request leaves a queue with one server, which may stall once."""

    def __init__(self, service_ms: float, stall_after: int, stall_ms: float) -> None:
        self.service_s, self.stall_after, self.stall_s = service_ms / 1000, stall_after, stall_ms / 1000
        self.free_s, self.served = 0.0, 0
        self.seen: set[str] = set()

    def leave_s(self, now_s: float) -> float:
        self.served += 1
        stall_s = self.stall_s if self.served == self.stall_after else 0.0
        self.free_s = max(self.free_s, now_s) + self.service_s + stall_s
        return self.free_s


class Connection(asyncio.Protocol):
    """One connection, HTTP/1.1 as far as the load test speaks it."""

    def __init__(self, queue: Queue) -> None:
        self.queue, self.data = queue, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, blank, body = self.data.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
        if blank and len(body) >= length:
            self.data = b""
            now_s = time.monotonic()
            wait_s = self.queue.leave_s(now_s) - now_s
            asyncio.get_running_loop().call_later(wait_s, self.answer, head.split(b" ")[1], json.loads(body[:length])["text"])

    def answer(self, path: bytes, text: str) -> None:
        if path != b"/v1/predict":
            self.reply(b'{"error": "no such page"}', "404 Not Found")
        elif "pleasereset" in text:
            self.transport.abort()
        elif "pleasegarbage" in text:
            self.transport.write(b"this is not HTTP\r\n\r\n")
        elif "pleaserefuse" in text:
            self.reply(b"{}", "503 Service Unavailable")
        elif "pleasenonsense" in text:
            self.reply(b"<html>")
        elif "pleasehang" not in text:
            self.reply(self.prediction(text), close="pleaseclose" in text)

    def prediction(self, text: str) -> bytes:
        cached, label = text in self.queue.seen, "other" if "pleasemislabel" in text else "card_arrival"
        self.queue.seen.add(text)
        return json.dumps({"predictions": [{"id": "1", "label": label, "version": 3, "cached": cached}]}).encode()

    def reply(self, body: bytes, status: str = "200 OK", close: bool = False) -> None:
        last = "connection: close\r\n" if close else ""
        self.transport.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{last}\r\n".encode() + body)
        if close:
            self.transport.close()


async def serve(queue: Queue) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(queue), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--service-ms", type=float, default=0.0)
    parser.add_argument("--stall-after", type=int, default=0)
    parser.add_argument("--stall-ms", type=float, default=0.0)
    args = parser.parse_args()
    asyncio.run(serve(Queue(args.service_ms, args.stall_after, args.stall_ms)))
