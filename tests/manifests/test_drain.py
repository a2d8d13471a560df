"""A Triton pod shuts down without a failed request: its connections end before it receives SIGTERM.

After SIGTERM Triton answers that it knows no model. When preStop begins, Kubernetes removes the pod from the Service: new
connections go elsewhere, but open ones stay. So they must end before preStop does.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
import tritonclient.grpc.aio as triton_aio

from pipeline.params import Params, Serve
from serving.triton.client import Connection, TritonError
from serving.triton.http_pool import MAX_AGE_S
from tests.manifests.rendered import Object, find_workload, flags
from tests.manifests.triton_container import TritonContainer, fetch_models, start_triton

TwoPods = Callable[[], list[TritonContainer]]
AGE_MS = 300  # instead of the manifest's seconds


class Service:
    """A fake ClusterIP: each new connection goes to one of the pods; open connections stay where they are."""

    def __init__(self, pods: list[int]) -> None:
        self.pods, self.connections = pods, 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self.connect, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        pod = self.pods[self.connections % len(self.pods)]
        pod_reader, pod_writer = await asyncio.open_connection("127.0.0.1", pod)
        await asyncio.gather(copy(reader, pod_writer), copy(pod_reader, writer), return_exceptions=True)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.close()


class GrpcClient:
    """A KServe client with one channel that stays open until the server closes it."""

    def __init__(self, serve: Serve) -> None:
        self._client = triton_aio.InferenceServerClient(f"{serve.host}:{serve.grpc_port}")

    async def ask(self, model: str, texts: list[str], timeout_s: float) -> list[str]:
        tensor = triton_aio.InferInput("text", [len(texts), 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=object))
        try:
            result = await self._client.infer(model, [tensor], client_timeout=timeout_s)
        except triton_aio.InferenceServerException as error:
            raise TritonError(str(error)) from None
        return [cell.decode() for cell in result.as_numpy("label").reshape(-1)]

    async def close(self) -> None:
        await self._client.close()


class GatewayClient:
    """The gateway's connection to Triton."""

    def __init__(self, serve: Serve) -> None:
        self._connection = Connection(serve, max_age_s=AGE_MS / 1000)

    async def ask(self, model: str, texts: list[str], timeout_s: float) -> list[str]:
        return (await self._connection.infer(model, texts, timeout_s)).labels

    async def close(self) -> None:
        await self._connection.close()


async def ask_until(stop: asyncio.Event, client: GrpcClient | GatewayClient) -> tuple[int, list[str]]:
    """Send requests from eight callers until `stop`; return the number of answers, and every failure."""
    answered, failures = 0, []

    async def caller() -> None:
        nonlocal answered
        while not stop.is_set():
            try:
                assert await client.ask("intent-7", ["where is my parcel?"], timeout_s=5) == ["it answers"]
                answered += 1
            except TritonError as error:
                failures.append(str(error))

    await asyncio.gather(*(caller() for _ in range(8)))
    await client.close()
    return answered, failures


async def shut_one_down(
    kind: type[GrpcClient | GatewayClient], pods: list[TritonContainer], pre_stop_s: float
) -> tuple[int, list[str], int]:
    """Shut down one of two pods under load; return the number of answers, the failures and the number of connections."""
    port_name = "grpc_port" if kind is GrpcClient else "http_port"
    service, stop = Service([getattr(pod.serve, port_name) for pod in pods]), asyncio.Event()
    async with service.listening() as port:
        client = kind(pods[0].serve.model_copy(update={port_name: port}))
        asking = asyncio.create_task(ask_until(stop, client))
        await asyncio.sleep(3 * AGE_MS / 1000)
        leaving = pods[service.connections % 2]  # the pod in use
        service.pods.pop(service.connections % 2)
        await asyncio.sleep(pre_stop_s)
        leaving.process.terminate()
        await asyncio.to_thread(leaving.process.wait, 30)
        pods.remove(leaving)
        stop.set()
        return *await asking, service.connections


@pytest.fixture(scope="module")
def main(rendered: dict[str, list[Object]]) -> Object:
    """Return Triton's container in the manifest."""
    return find_workload(rendered["local"], "triton").main


@pytest.fixture(scope="module")
def running(main: Object, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoPods]:
    """Yield a function that returns two ready pods: the one that a test leaves behind serves in the next."""
    repository = fetch_models(tmp_path_factory.mktemp("pods"))
    pods: list[TritonContainer] = []

    def two() -> list[TritonContainer]:
        while len(pods) < 2:
            pods.append(start_triton(main, repository, params.serve, grpc_max_connection_age=str(AGE_MS), exit_timeout_secs="3"))
        for pod in pods:
            pod.wait_ready()
        return pods

    try:
        yield two
    finally:
        for pod in pods:
            pod.process.terminate()
            pod.process.wait(timeout=30)


@pytest.mark.parametrize(
    ("kind", "waits", "fails"),
    [(GrpcClient, True, False), (GrpcClient, False, True), (GatewayClient, True, False), (GatewayClient, False, False)],
    ids=["gRPC, after preStop", "gRPC, at once", "gateway, after preStop", "gateway, at once"],
)
def test_a_pod_that_waits_as_in_the_manifest_shuts_down_without_failures(
    kind: type[GrpcClient | GatewayClient],
    waits: bool,
    fails: bool,
    main: Object,
    running: TwoPods,
) -> None:
    pre_stop_ms = int(main["lifecycle"]["preStop"]["exec"]["command"][1]) * 1000
    age_ms = max(1000 * MAX_AGE_S, int(flags(main)["--grpc-max-connection-age"]))
    ages = pre_stop_ms / age_ms
    assert ages >= 2
    answered, failures, connections = asyncio.run(shut_one_down(kind, running(), ages * AGE_MS / 1000 if waits else 0))
    assert answered > 100
    assert connections >= 3
    assert bool(failures) is fails, failures[:3]
