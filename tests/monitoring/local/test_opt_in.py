"""`make watch` starts no retrain unless it is told to, says so, and ends with all its programs whatever ends it."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from monitoring.decisions import OBSTACLES
from monitoring.inbox.page import render_page
from monitoring.local import watch
from pipeline.lifetime import processes_with
from pipeline.params import Params
from serving.processes.ports import free_ports
from tests.conftest import ROOT
from tests.faults.stack import clean_environment
from tests.monitoring.retrain.test_run_local import until

COMMAND = ".venv/bin/evergreen retrain"


@pytest.mark.parametrize(("given", "expected"), [((), False), (("RETRAIN=1",), True), (("RETRAIN=0",), False)])
def test_the_makefile_passes_the_choice_on(given: tuple[str, ...], expected: bool) -> None:
    command = ["make", "--dry-run", "--assume-old=.venv/ready", "--assume-old=.tools/ready", "watch", *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ("monitoring.local.watch --retrain" in done.stdout) is expected


@pytest.mark.parametrize("is_on_request", [True, False])
def test_controller_and_inbox_get_the_same_choice(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_on_request: bool
) -> None:
    started: dict[str, Any] = {}

    @contextmanager
    def stack(*_parts: object, **options: Any) -> Iterator[None]:
        started.update(options)
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(watch, "running_stack", stack)
    with pytest.raises(KeyboardInterrupt):
        watch.watch(params, tmp_path, print, is_on_request=is_on_request)
    commands = (started["retrain_commands"]["controller"], started["inbox_command"])
    assert [command[-1] == "--on-request" for command in commands] == [is_on_request, is_on_request]


def test_an_incident_says_that_retraining_is_on_request_and_names_the_command() -> None:
    saying = OBSTACLES["on_request"]
    assert "retraining is on request" in saying.why
    assert saying.command == COMMAND


@pytest.mark.parametrize("is_on_request", [True, False])
def test_the_inbox_says_which_it_is_and_offers_to_retrain_now(params: Params, is_on_request: bool) -> None:
    retraining = watch.describe_retraining(params.alerts, is_on_request=is_on_request)
    page = render_page([], None, 0.0, 1.0, params.alerts, retraining)
    assert f"Retraining is {'on request' if is_on_request else 'automatic'}" in page
    assert f'<code class="command" tabindex="0">{COMMAND}</code>' in page


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_every_program_ends_with_make_watch(params: Params, tmp_path: Path, number: signal.Signals) -> None:
    names = [name for name in type(params.alerts).model_fields if name.endswith("_port")]
    ports = dict(zip(names, free_ports("127.0.0.1", len(names)), strict=True))
    values = json.loads(params.model_copy(update={"alerts": params.alerts.model_copy(update=ports)}).model_dump_json())
    (tmp_path / "params.yaml").write_text(json.dumps(values))
    (tmp_path / ".tools").symlink_to(ROOT / ".tools")
    home = tmp_path / "live"
    environment = clean_environment() | {"EVERGREEN_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "monitoring.local.watch", "--retrain"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout)
        assert any("besides the inbox, alerts go to: nobody" in line for line in lines)
        assert any("Ctrl-C stops everything" in line for line in lines)
        running = list(processes_with("EVERGREEN_HOME", str(home)))
        assert len(running) == 9  # and Prometheus, Alertmanager, console, five more of ours
        process.send_signal(number)
        process.stdout.read()
    until(lambda: not list(processes_with("EVERGREEN_HOME", str(home))))
