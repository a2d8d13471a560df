"""One console for a home: `make serve` and `make watch` never fight over it, and neither waits for it."""

import socket
from pathlib import Path

import pytest

from monitoring.console.process import SharedConsole
from pipeline.params import Params
from serving.processes.ports import free_port
from serving.processes.supervisor import Program


@pytest.fixture
def on_a_free_port(params: Params) -> Params:
    return params.model_copy(update={"alerts": params.alerts.model_copy(update={"console_port": free_port()})})


def pid_of(console: SharedConsole) -> int | None:
    return console._child.process.pid if console._child.process else None


def test_the_second_owner_starts_the_console_only_when_the_first_has_ended(on_a_free_port: Params, tmp_path: Path) -> None:
    announced: list[str] = []
    first, second = SharedConsole(on_a_free_port, tmp_path), SharedConsole(on_a_free_port, tmp_path)
    for console in (first, second):
        program = console._child.program
        assert isinstance(program, Program)
        console._child.program = program._replace(command=["sleep", "1000"])
    try:
        for moment in range(3):
            for console in (first, second):
                console.look(1000.0 * moment, announced.append)
        assert pid_of(first) is not None and pid_of(second) is None
        first.end()
        second.look(5000.0, announced.append)
        assert pid_of(second) is not None
        assert announced == []
    finally:
        first.end()
        second.end()


def test_a_port_of_another_program_is_named_once_and_never_taken(on_a_free_port: Params, tmp_path: Path) -> None:
    announced: list[str] = []
    console = SharedConsole(on_a_free_port, tmp_path)
    with socket.socket() as other:
        other.bind((on_a_free_port.alerts.host, on_a_free_port.alerts.console_port))
        other.listen()
        for moment in range(3):
            console.look(1000.0 * moment, announced.append)
    assert pid_of(console) is None
    assert announced == [f"no console: another program uses {console.url}; choose another alerts.console_port in params.yaml"]
    console.end()
