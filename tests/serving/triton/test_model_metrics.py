"""What a Triton's metrics and processes say of one model among others."""

import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipeline.params import Params, Serve
from serving.processes.ports import free_port
from serving.triton.model_memory import model_memory
from serving.triton.model_metrics import model_traffic, text_seconds
from tests.http_servers import serving_in_thread

PAGE = """# HELP nv_inference_request_success Number of successful inference requests
nv_inference_request_success{model="intent-1",version="1"} 40
nv_inference_request_success{model="intent-10",version="1"} 7
nv_inference_request_failure{model="intent-1",reason="BACKEND",version="1"} 2
nv_inference_request_failure{model="intent-1",reason="OTHER",version="1"} 1
nv_inference_count{model="intent-1",version="1"} 80
nv_inference_compute_infer_duration_us{model="intent-1",version="1"} 400000
nv_inference_pending_request_count{model="intent-1",version="1"} 3
nv_inference_count{model="intent-2",version="1"} 0
"""


class Metrics(BaseHTTPRequestHandler):
    """Answers with the page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve(params: Params) -> Iterator[Serve]:
    server = HTTPServer(("127.0.0.1", 0), Metrics)
    with serving_in_thread(server):
        yield params.serve.model_copy(update={"metrics_port": server.server_port})


def test_requests_that_failed_count_as_traffic_and_other_models_do_not(serve: Serve) -> None:
    assert model_traffic(serve, "intent-1") == (43.0, 3.0)
    assert model_traffic(serve, "intent-10") == (7.0, 0.0)


def test_the_time_of_a_text_is_known_once_there_was_one(serve: Serve) -> None:
    assert text_seconds(serve, "intent-1") == pytest.approx(0.005)
    assert text_seconds(serve, "intent-2") is None


def test_a_server_without_metrics_says_nothing(params: Params) -> None:
    nobody = params.serve.model_copy(update={"metrics_port": free_port()})
    assert model_traffic(nobody, "intent-1") == (0.0, 0.0)
    assert text_seconds(nobody, "intent-1") is None


@pytest.fixture
def backends(tmp_path: Path) -> Iterator[None]:
    """Run two processes of version 1 and one of version 10, under the name of Triton's: each waits for its input."""
    stub = shutil.copy(shutil.which("cat") or "/bin/cat", tmp_path / "triton_python_backend_stub")
    processes = [
        subprocess.Popen([stub, "-", f"{tmp_path}/models/intent-{version}/1/model.py"], stdin=subprocess.PIPE)
        for version in (1, 1, 10)
    ]
    yield
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.usefixtures("backends")
def test_the_memory_of_a_model_is_that_of_all_its_processes_and_of_no_others(tmp_path: Path) -> None:
    both, other = model_memory(tmp_path, "intent-1"), model_memory(tmp_path, "intent-10")
    assert both and other
    assert both > other
    assert model_memory(tmp_path, "intent-2") is None
    assert model_memory(tmp_path / "elsewhere", "intent-1") is None
