"""One turn of the loop: messages are sent, people label when they have been told, and it is watched what comes of it."""

import time

from evergreen.loop.customers import Annotators, Customers
from evergreen.loop.environment import Place
from evergreen.loop.events import FIRST, Event, Facts, Seen, events, read

BRISK_PER_S = 30.0  # messages; while a retrain runs, what may be sent by then is spread over the time that it takes
RETRAIN_S, AT_LEAST_S = 280.0, 30.0  # what it takes about; what it takes more at every moment, where it takes longer
KEPT_FOR_AFTER = 200  # messages that wait for the new champion


class Turn:
    """`look` again and again until it `is_over`."""

    def __init__(self, place: Place, customers: Customers, annotators: Annotators, zero_s: float, zero_wall: float) -> None:
        """`zero_s` and `zero_wall` are when the loop began, by the clock of the boot and by the calendar."""
        self._place, self._customers, self._annotators = place, customers, annotators
        self._zero_s, self._zero_wall = zero_s, zero_wall
        self._seen = Seen(None, 0, {})
        self.facts = Facts(None, None, [], [])

    @property
    def now_s(self) -> float:
        """Seconds since the loop began."""
        return time.monotonic() - self._zero_s

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come: the new champion has answered all there is, or a retrain ended without one."""
        retrain = self.facts.retrain
        if retrain and retrain["state"] in ("refused", "failed"):
            return True
        asked = self._customers.so_far()
        return len(asked) == self._customers.total and asked[-1].version > FIRST

    def look(self) -> list[Event]:
        """See what has happened, and do what people do then."""
        self.facts = read(self._place)
        if self.facts.retrain and self.facts.retrain["progress"]:
            stage = str(self.facts.retrain["progress"]).removeprefix("stage ").partition(",")[0]
            self._seen.stages.setdefault(stage, self.now_s)
        if self.facts.message:
            self._annotators.begin()
        if self.facts.retrain and self._seen.labelled_s is None:
            self._seen = self._seen._replace(labelled_s=self.now_s, labelled=min(self._annotators.labelled.values()))
        retrain = self.facts.retrain
        is_swapped = retrain is not None and retrain["state"] == "done"
        self._customers.until = self._customers.total - (0 if is_swapped else KEPT_FOR_AFTER)
        self._customers.per_s = BRISK_PER_S if retrain is None or is_swapped else self._calm_per_s(retrain["began_wall"])
        return events(self.facts, self._customers.so_far(), self._seen, self._zero_wall)

    def _calm_per_s(self, began_wall: float) -> float:
        """So that some messages are sent through the swap."""
        left_s = max(AT_LEAST_S, RETRAIN_S - (time.time() - began_wall))
        return max(1, self._customers.until - len(self._customers.asked)) / left_s
