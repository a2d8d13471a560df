"""A log line is one JSON object in visible ASCII, whoever writes it and whatever is in it."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from serving.processes.json_logs import log_in_json
from tests.hostile_text import HOSTILE, is_plain


@pytest.fixture(autouse=True)
def _log_settings() -> Iterator[None]:
    """Restore the settings of both logging systems."""
    before, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    yield
    structlog.configure(**before)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:20]))
def test_hostile_text_is_escaped_in_every_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    log_in_json()
    structlog.get_logger().error("a label", label=text)
    try:
        raise ValueError(text)
    except ValueError:
        logging.getLogger("a_library").exception("a library reports %s", text)
    ours, theirs = capsys.readouterr().err.splitlines()
    assert json.loads(ours)["label"] == text
    assert json.loads(theirs)["event"].endswith(text)
    assert text in json.loads(theirs)["exception"]
    assert is_plain(ours + theirs)
    assert (ours + theirs).isascii()
