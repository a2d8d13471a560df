"""Triton's command in the pod, and a real Triton started with it."""

import re
import subprocess
from pathlib import Path

import psutil
import pytest
import requests

from pipeline.errors import ToolError
from pipeline.params import Params
from serving.triton.client import ADMIN_HEADER, infer_grpc, unload
from serving.triton.server import RESTRICTED
from tests.manifests.rendered import Object, find_object, find_workload, flags
from tests.manifests.triton_container import TritonContainer, start_triton
from tests.monitoring.alert_rules.test_names import TRITON, exported


def test_triton_starts_with_the_options_advised_for_production(objects: list[Object]) -> None:
    triton = find_workload(objects, "triton")
    options = flags(triton.main)
    del options["--http-max-input-size"]
    (models,) = [mount for mount in triton.main["volumeMounts"] if mount["name"] == "models"]
    assert options.pop("--allow-gpu-metrics") in ("true", "false")
    assert {name: value for name, value in options.items() if not name.endswith("-port")} == {
        "--model-repository": models["mountPath"],
        "--model-control-mode": "none",
        "--strict-readiness": "true",
        "--exit-on-error": "true",
        "--disable-auto-complete-config": "",
        "--exit-timeout-secs": "30",
        "--grpc-max-connection-age": "5000",
        "--allow-client-shm": "false",
        "--allow-sagemaker": "false",
        "--allow-vertex-ai": "false",
    }
    assert models["readOnly"] is True


def test_the_request_limit_just_fits_the_largest_batch(objects: list[Object], params: Params) -> None:
    escaped = len(r"\ud83d\ude00")  # the longest JSON escape of one character
    largest = params.package.max_batch_size * params.data.max_text_chars * escaped
    assert largest < int(flags(find_workload(objects, "triton").main)["--http-max-input-size"]) < 4 * largest


def test_triton_serves_what_the_init_container_fetches(objects: list[Object]) -> None:
    triton = find_workload(objects, "triton")
    (init,) = triton.pod["initContainers"]
    assert init["command"] == ["python", "-m", "serving.release.fetch_repository"]
    assert flags(init)["--to"] == flags(triton.main)["--model-repository"]
    assert flags(init)["--from"] == "$(EVERGREEN_MODEL_STORE)"
    (variable,) = init["env"]
    reference = variable["valueFrom"]["configMapKeyRef"]
    assert variable["name"] == "EVERGREEN_MODEL_STORE"
    assert reference["key"] in find_object(objects, "ConfigMap", reference["name"])["data"]


def test_a_real_triton_starts_and_serves_everything_fetched(
    rendered: dict[str, list[Object]], repository: Path, params: Params
) -> None:
    triton = start_triton(find_workload(rendered["local"], "triton").main, repository, params.serve)
    try:
        triton.wait_ready()
        assert infer_grpc(triton.serve, "intent-8", ["where is my parcel?"]).labels == ["it answers"]
        metrics = requests.get(f"http://{triton.serve.host}:{triton.serve.metrics_port}/metrics", timeout=10).text
        expected = {name: labels for name, labels in TRITON.items() if not name.startswith("nv_gpu_")}  # this machine has no GPU
        assert {name: exported(metrics).get(name) for name in expected} == expected
        with pytest.raises(ToolError, match="not its admin key"):
            unload(triton.serve, "intent-7", "not the key")
        key = drawn_key(triton)
        assert re.fullmatch(r"[0-9a-f]{64}", key)
        with pytest.raises(ToolError, match="not allowed"):  # even with the key, which nobody has
            unload(triton.serve, "intent-7", key)
        assert infer_grpc(triton.serve, "intent-7", ["where is my parcel?"]).labels == ["it answers"]
    finally:
        triton.process.terminate()
        assert triton.process.wait(timeout=30) == 0  # the shell has execed Triton, so the signal arrived


def drawn_key(triton: TritonContainer) -> str:
    """Return the key in the arguments of the running process."""
    (option,) = [line for line in psutil.Process(triton.process.pid).cmdline() if line.startswith("--http-restricted-api=")]
    return option.rpartition("=")[2]


def test_a_key_that_cannot_be_drawn_stops_the_start(rendered: dict[str, list[Object]], tmp_path: Path) -> None:
    (tmp_path / "od").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "tritonserver").write_text("#!/bin/sh\necho started\n")
    for program in tmp_path.iterdir():
        program.chmod(0o755)
    command = find_workload(rendered["local"], "triton").main["command"]
    result = subprocess.run(command, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")


def test_the_administration_is_restricted_as_on_a_single_machine(objects: list[Object]) -> None:
    script = find_workload(objects, "triton").main["command"][2]
    assert f'restricted="{",".join(RESTRICTED)}:{ADMIN_HEADER}=$key"' in script
    assert "--http-restricted-api=" in script
    assert "--grpc-restricted-protocol=" in script
