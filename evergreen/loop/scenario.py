"""The scenario: customers send messages, annotators label once the alert arrives, and the new champion gets the rest."""

import time

from evergreen.loop.annotators import Annotators
from evergreen.loop.customers import Customers
from evergreen.loop.environment import Environment
from evergreen.loop.events import FIRST, Event, Facts, Observed, list_events, read_facts

FAST_PER_S = 30.0  # messages; slower during a retrain, so that the messages up to the limit last until its swap
RETRAIN_S, AT_LEAST_S = 280.0, 30.0  # expected length of a retrain; assumed remaining time once it takes longer
FOR_NEW_CHAMPION = 200  # messages that wait for the new champion


class Scenario:
    """Call `step` again and again until it `is_over`."""

    def __init__(
        self, environment: Environment, customers: Customers, annotators: Annotators, start_s: float, start_wall: float
    ) -> None:
        """`start_s` (monotonic clock) and `start_wall` (seconds since the epoch) are the start of the loop."""
        self._environment, self._customers, self._annotators = environment, customers, annotators
        self._start_s, self._start_wall = start_s, start_wall
        self._observed = Observed(None, None, 0, {})
        self.facts = Facts(None, None, [], [])

    @property
    def now_s(self) -> float:
        """Return the seconds since the loop began."""
        return time.monotonic() - self._start_s

    @property
    def is_over(self) -> bool:
        """Return True when the new champion has answered the last message, or a retrain ended without one."""
        retrain = self.facts.retrain
        if retrain and retrain["state"] in ("refused", "rolled_back", "aborted", "failed", "cancelled"):
            return True
        messages = self._customers.snapshot()
        return len(messages) == self._customers.total and messages[-1].version > FIRST

    def step(self) -> list[Event]:
        """Read the stores, direct customers and annotators accordingly, and return all events so far."""
        self.facts = read_facts(self._environment)
        retrain = self.facts.retrain
        if retrain and retrain["progress"]:
            stage = str(retrain["progress"]).removeprefix("stage ").partition(",")[0]
            self._observed.stages.setdefault(stage, self.now_s)
        if self.facts.alert:
            self._annotators.begin()
        if retrain and self._observed.labelled_s is None:
            self._observed = self._observed._replace(labelled_s=self.now_s, labelled=self._annotators.texts)
        if self._annotators.chosen_s is not None:
            self._observed = self._observed._replace(chosen_s=self._annotators.chosen_s - self._start_s)
        is_swapped = retrain is not None and retrain["state"] == "done"
        self._customers.limit = self._customers.total - (0 if is_swapped else FOR_NEW_CHAMPION)
        self._customers.per_s = FAST_PER_S if retrain is None or is_swapped else self._slow_per_s(retrain["began_wall"])
        return list_events(self.facts, self._customers.snapshot(), self._observed, self._start_wall)

    def _slow_per_s(self, began_wall: float) -> float:
        """Spread the messages up to the limit over the rest of the retrain, so that some are sent during the swap."""
        left_s = max(AT_LEAST_S, RETRAIN_S - (time.time() - began_wall))
        return max(1, self._customers.limit - len(self._customers.messages)) / left_s
