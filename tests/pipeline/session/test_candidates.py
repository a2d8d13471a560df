"""Candidates that cannot run here: each is named with its reason, and stops no other."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.params import Params
from pipeline.session.candidates import INT8, Sessions
from pipeline.session.session_gate import BASELINE


def test_an_engine_that_answers_nothing_is_no_candidate(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = SimpleNamespace(predict=lambda _texts: SimpleNamespace(labels=[]))
    monkeypatch.setattr(Sessions, "open", lambda *_: silent)
    sessions = Sessions(tmp_path, [], tmp_path, params.session, params.package)
    assert sessions.try_open(INT8) == "RuntimeError: it gives 0 answers to one text"
    with pytest.raises(RuntimeError, match="0 answers"):
        sessions.try_open(BASELINE)
