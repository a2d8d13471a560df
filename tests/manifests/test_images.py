"""The Dockerfile: exact versions, unprivileged users, nothing private. Docker does not run here, but its shell lines do."""

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.manifests.dockerfile import ENTRIES, build_argument, dockerfile_stages, image_packages, locked_versions


def test_base_images_are_exact_and_take_a_digest() -> None:
    assert dockerfile_stages()["nvidia"].base == "nvcr.io/nvidia/tritonserver:${TRITON_TAG}${TRITON_DIGEST:+@$TRITON_DIGEST}"
    assert dockerfile_stages()["python"].base == "docker.io/library/python:${PYTHON_TAG}${PYTHON_DIGEST:+@$PYTHON_DIGEST}"
    assert build_argument("TRITON_DIGEST") == build_argument("PYTHON_DIGEST") == ""
    assert re.fullmatch(r"3\.11\.\d+-slim-[a-z]+", build_argument("PYTHON_TAG"))
    assert {stage.base for stage in dockerfile_stages().values()} - {"nvidia", "python", "gateway"} == {
        dockerfile_stages()["nvidia"].base,
        dockerfile_stages()["python"].base,
    }


def test_tritons_image_is_recent_and_matches_the_client() -> None:
    year, month = map(int, re.fullmatch(r"(\d\d)\.(\d\d)-py3", build_argument("TRITON_TAG")).groups())  # type: ignore[union-attr]
    assert (year, month) >= (26, 7), "older ones have known vulnerabilities"
    assert locked_versions()["tritonclient"].split(".")[:2] == [
        "2",
        str((year - 26) * 12 + month + 64),
    ]  # 26.07 is 2.71, and so on


@pytest.mark.parametrize("image", ENTRIES)
def test_the_shell_selects_the_locks_lines_and_no_others(image: str, tmp_path: Path) -> None:
    result = select_packages(image, tmp_path, (ROOT / "requirements.lock").read_text(encoding="utf-8"))
    assert result.returncode == 0, result.stderr
    names = dockerfile_stages()[f"{image}-packages"].packages
    selected = (tmp_path / "wanted.txt").read_text().splitlines()
    assert [line.split()[0] for line in selected] == [f"{name}=={locked_versions()[name]}" for name in names]
    assert all(" --hash=sha256:" in line for line in selected)
    assert len(set(names)) == len(names)


def test_a_name_missing_from_the_lock_stops_the_build(tmp_path: Path) -> None:
    without = "\n".join(
        line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("tokenizers")
    )
    assert select_packages("triton", tmp_path, without).returncode == 1


def test_another_onnxruntime_replaces_the_locks(tmp_path: Path) -> None:
    select_packages(
        "triton", tmp_path, (ROOT / "requirements.lock").read_text(), ONNXRUNTIME="onnxruntime-gpu==9.9 --hash=sha256:00"
    )
    wanted = (tmp_path / "wanted.txt").read_text().splitlines()
    assert "onnxruntime-gpu==9.9 --hash=sha256:00" in wanted
    assert len(wanted) == len(image_packages("triton"))


def select_packages(image: str, folder: Path, lock: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the part of the stage's RUN before pip in a real shell."""
    stage = dockerfile_stages()[f"{image}-packages"]
    (script,) = stage.all("RUN")
    before, _, pip = script.rpartition("python")
    for option in (
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "--target /opt/evergreen/packages",
        "-r /build/wanted.txt",
    ):
        assert option in pip
    (folder / "requirements.lock").write_text(lock)
    environment = {"PATH": "/usr/bin:/bin", "PACKAGES": " ".join(stage.packages), "ONNXRUNTIME": "", **variables}
    environment["TRITON_SERVER_VERSION"] = locked_versions()["tritonclient"]
    return subprocess.run(
        ["/bin/sh", "-c", before.replace("/build", str(folder))], env=environment, capture_output=True, text=True
    )


def test_an_image_of_another_release_stops_the_build(tmp_path: Path) -> None:
    (script,) = dockerfile_stages()["triton-packages"].all("RUN")
    (tmp_path / "requirements.lock").write_text("tritonclient==2.73.0 --hash=sha256:00\n")
    check = script.partition("for name")[0].replace("/build", str(tmp_path))
    codes = [
        subprocess.run(["/bin/sh", "-c", check], env={"PATH": "/usr/bin:/bin", "TRITON_SERVER_VERSION": version}).returncode
        for version in ("2.73.0", "2.72.0", "")
    ]
    assert codes == [0, 1, 1]


def test_versions_of_packages_appear_only_in_the_lock() -> None:
    instructions = [line for stage in dockerfile_stages().values() for line in stage.lines]
    assert not [line for line in instructions if re.search(r"==\s*\d", line)]


def test_images_run_as_numbered_users_that_kubernetes_can_verify() -> None:
    assert dockerfile_stages()["triton"].all("USER")[-1] == "1000:1000"
    assert dockerfile_stages()["gateway"].all("USER") == ["10001:10001"]
    assert not [
        line for stage in dockerfile_stages().values() for line in stage.lines if line.startswith(("ADD ", "EXPOSE ", "VOLUME "))
    ]


def test_each_image_runs_its_process() -> None:
    assert dockerfile_stages()["gateway"].all("CMD") == ['["python", "-m", "serving.gateway"]']
    assert dockerfile_stages()["monitor"].all("CMD") == ['["python", "-m", "monitoring.monitor"]']


def test_the_monitors_image_extends_the_gateways_with_the_same_user() -> None:
    monitor = dockerfile_stages()["monitor"]
    assert monitor.base == "gateway"
    assert not monitor.all("USER")
    assert not monitor.all("RUN")


def test_network_tools_are_removed_from_every_folder_on_the_path(tmp_path: Path) -> None:
    (script,) = dockerfile_stages()["triton"].all("RUN")
    (tmp_path / "bin").mkdir()
    (tmp_path / "local").mkdir()
    for folder in ("bin", "local"):
        for tool in ("curl", "wget", "pip3", "apt-get", "tritonserver"):
            (tmp_path / folder / tool).write_text("#!/bin/sh\n")
            (tmp_path / folder / tool).chmod(0o755)
    for tool, script_line in (("id", "echo 1000"), ("python3", "exit 1")):
        (tmp_path / "bin" / tool).write_text(f"#!/bin/sh\n{script_line}\n")
        (tmp_path / "bin" / tool).chmod(0o755)
    (tmp_path / "bin/rm").symlink_to("/bin/rm")
    path = f"{tmp_path / 'local'}:{tmp_path / 'bin'}"
    result = subprocess.run(["/bin/sh", "-c", script], env={"PATH": path}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "local").iterdir()} == {"tritonserver"}
    assert {path.name for path in (tmp_path / "bin").iterdir()} == {"tritonserver", "id", "python3", "rm"}


def test_the_build_context_contains_what_is_copied_and_nothing_private() -> None:
    copied = {
        line.split()[0] for stage in dockerfile_stages().values() for line in stage.all("COPY") if not line.startswith("--from=")
    }
    assert copied == {"requirements.lock", "pipeline", "serving", "state", "monitoring"}
    for path in ("requirements.lock", "pipeline/params/load.py", "state/migrations/versions/r0001_releases.py"):
        assert in_context(path), path
    private = "live/state.db artifacts/package/1/model.onnx .venv/bin/python .git/config data/feedback/rows.jsonl params.yaml"
    idle = "tests/conftest.py k8s/base/gateway.yaml pipeline/__pycache__/x.pyc serving/backend/__pycache__/x.pyc"
    for path in f"{private} {idle}".split():
        assert not in_context(path), path


def in_context(path: str) -> bool:
    """Apply .dockerignore: the last line that matches the path or a parent folder decides."""
    candidates = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
    inside = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.lstrip("!")
        if line.startswith("#") or not line:
            continue
        forms = [pattern, pattern.removeprefix("**/")]
        if any(fnmatch(candidate, form) and (form != "*" or "/" not in candidate) for candidate in candidates for form in forms):
            inside = line.startswith("!")
    return inside
