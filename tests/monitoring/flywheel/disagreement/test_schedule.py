"""Between rounds, disagreement is measured once in its interval, by a child process."""

import sys
import threading
from pathlib import Path

import pytest

from monitoring.flywheel.disagreement.store import add_measurement
from monitoring.flywheel.queue.round import Round, write_round
from monitoring.flywheel.rounds import Rounds
from pipeline.params import Params
from state.database import open_state
from tests.monitoring.conftest import measured_disagreement
from tests.monitoring.homes import NOON, publish

DAY = 86_400.0


class Clock:
    """A clock that tests set."""

    now = NOON

    def __call__(self) -> float:
        return self.now


class Compared:
    """Rounds whose measurement is a line in a file."""

    def __init__(self, home: Path, params: Params, code: int = 0) -> None:
        self.clock, self._file = Clock(), home / "measured"
        flywheel = params.flywheel.model_copy(update={"every_s": 7 * DAY, "compare_every_s": DAY})
        script = f"import sys; open({str(self._file)!r}, 'a').write('x'); sys.exit({code})"
        settings = params.model_copy(update={"flywheel": flywheel})
        self.rounds = Rounds(settings, home, self.clock, ["false"], [sys.executable, "-c", script])

    def look(self, after_s: float) -> int:
        """Look at this time after noon; return how often disagreement has been measured by then."""
        self.clock.now = NOON + after_s
        assert not self.rounds.look(threading.Event())
        return len(self._file.read_text()) if self._file.exists() else 0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home with a champion and a round that was made at noon."""
    publish(tmp_path, 3, None)
    (tmp_path / "flywheel").mkdir()
    write_round(tmp_path, Round(NOON, 3, [], [], 1))
    return tmp_path


@pytest.mark.parametrize("code", [0, 1])
def test_it_is_measured_once_in_its_interval_also_where_that_fails(home: Path, params: Params, code: int) -> None:
    compared = Compared(home, params, code)
    assert [compared.look(after) for after in (0, 60, DAY - 1, DAY, DAY + 1, 3 * DAY)] == [1, 1, 1, 2, 2, 3]


def test_what_a_round_has_measured_is_not_measured_again(home: Path, params: Params) -> None:
    with open_state(home) as engine, engine.begin() as connection:
        add_measurement(connection, measured_disagreement(3, measured_at=NOON))
        add_measurement(connection, measured_disagreement(2, measured_at=NOON + DAY))  # of another champion
    compared = Compared(home, params)
    assert [compared.look(after) for after in (0, DAY - 1, DAY)] == [0, 0, 1]
