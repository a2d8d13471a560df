"""What is measured of a machine: free memory, also under a container's limit, and what a version takes of it."""

import os
import stat
from pathlib import Path

import psutil
import pytest

from pipeline.errors import InputError
from serving.release.plan import room
from serving.release.plan.room import free_memory, gpu_free, measure_room
from tests.conftest import Project


def test_free_memory_is_the_machines_without_a_limit(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1\n")
    for folder in (tmp_path, tmp_path / "none"):
        assert 0 < free_memory(folder) <= psutil.virtual_memory().total


def test_a_containers_limit_bounds_free_memory(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1048576\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert free_memory(tmp_path) == 48576
    (tmp_path / "memory.current").write_text("2000000\n")
    assert free_memory(tmp_path) == 0


def test_the_freest_gpu_counts_and_without_one_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_free() == 0
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 300\necho 1200\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    assert gpu_free() == 1200 * 2**20


def test_a_version_is_opened_and_measured(made: Project, tmp_path: Path) -> None:
    measured = measure_room(made.params, tmp_path, 1, made / "artifacts/package")
    assert measured.device == "cpu"
    assert measured.device_free == measured.memory_free > 0
    assert measured.model_bytes > 0
    assert measured.load_s > measured.cpu_text_s > 0
    assert measured.device_text_s == measured.cpu_text_s  # no Triton has counted any


def test_a_machine_without_room_to_measure_is_an_error(made: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "free_memory", lambda: 1)
    with pytest.raises(InputError, match="too few to measure"):
        measure_room(made.params, tmp_path, 1, made / "artifacts/package")
