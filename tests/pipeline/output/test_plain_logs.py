"""Log lines and tracebacks of a command show hostile text escaped."""

import sys
from collections.abc import Iterator

import pytest
import structlog

from pipeline.output.plain_logs import log_as_plain_text, print_traceback
from pipeline.output.plain_text import printable
from tests.hostile_text import HOSTILE, is_plain


@pytest.fixture
def _log_settings() -> Iterator[None]:
    """Restore structlog and the hook for tracebacks."""
    before, hook = structlog.get_config(), sys.excepthook
    yield
    structlog.configure(**before)
    sys.excepthook = hook


@pytest.mark.usefixtures("_log_settings")
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:20]))
def test_a_log_line_of_a_command_is_one_plain_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    log_as_plain_text()
    structlog.get_logger().warning("mlflow_call_failed", error=text, texts=[text], **{text: "name"})
    line = capsys.readouterr().err
    assert is_plain(line.removesuffix("\n"), allowed="")
    assert printable(text) in line


@pytest.mark.usefixtures("_log_settings")
def test_a_traceback_shows_hostile_text_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    log_as_plain_text()
    assert sys.excepthook is print_traceback
    print_traceback(ValueError, ValueError("\x1b[2J"), None)
    assert capsys.readouterr().err == "ValueError: \\x1b[2J\n"
