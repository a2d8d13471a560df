"""The token of our own clients comes from the environment."""

import pytest

from pipeline.errors import InputError
from serving.access.bearer import bearer_header


def test_the_token_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERGREEN_TOKEN", raising=False)
    assert bearer_header() == {}
    monkeypatch.setenv("EVERGREEN_TOKEN", " evg_x \n")
    assert bearer_header() == {"authorization": "Bearer evg_x"}


@pytest.mark.parametrize("value", ["two words", "a\r\nx-other: b", "ünicode"])
def test_what_is_no_token_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("EVERGREEN_TOKEN", value)
    with pytest.raises(InputError, match="EVERGREEN_TOKEN"):
        bearer_header()
