"""Count an event in the challenger's arm and in the baseline's, cut into pairs of one answer each."""

from typing import NamedTuple

from monitoring.release.verdicts.bets import log_e_excess


class ArmSample(NamedTuple):
    """New answers of one arm, and how many of them show the event."""

    hits: float
    answers: float


class TwoArms(NamedTuple):
    """Answers of two arms in pairs; the arm that is ahead has answers that wait for a partner.

    Which answers are paired does not matter to the e-process, because its value depends on sums alone. Hits of the waiting
    answers are counted as their mean over all choices: a log payoff averaged over choices is below the log of the average, hence
    valid.
    """

    pairs: float = 0.0
    hits: float = 0.0  # of the challenger's paired answers
    baseline_hits: float = 0.0
    waiting: ArmSample = ArmSample(0.0, 0.0)
    baseline_waiting: ArmSample = ArmSample(0.0, 0.0)

    def add(self, challenger: ArmSample, baseline: ArmSample) -> "TwoArms":
        """Add new answers, and pair as many as both arms have.

        >>> TwoArms().add(ArmSample(1, 4), ArmSample(0, 2))[:3]
        (2.0, 0.5, 0.0)
        """
        pools = _joined(self.waiting, challenger), _joined(self.baseline_waiting, baseline)
        paired = min(pool.answers for pool in pools)
        hits, baseline_hits = (pool.hits * paired / pool.answers if pool.answers else 0.0 for pool in pools)
        return TwoArms(
            self.pairs + paired,
            self.hits + hits,
            self.baseline_hits + baseline_hits,
            ArmSample(pools[0].hits - hits, pools[0].answers - paired),
            ArmSample(pools[1].hits - baseline_hits, pools[1].answers - paired),
        )

    def log_e(self, allowed: float) -> float:
        """Return log e against "the challenger's share exceeds the baseline's by `allowed` at most"."""
        return log_e_excess(allowed, self.pairs, self.hits, self.baseline_hits)

    @property
    def shares(self) -> tuple[float, float]:
        """Return the share of the event in each arm, 0 without answers."""
        return self.hits / max(self.pairs, 1), self.baseline_hits / max(self.pairs, 1)


def _joined(waiting: ArmSample, new: ArmSample) -> ArmSample:
    return ArmSample(waiting.hits + new.hits, waiting.answers + new.answers)
