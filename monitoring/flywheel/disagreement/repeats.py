"""The champion's disagreement with itself: texts that it has answered again, in another batch or in another precision. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from monitoring.flywheel.disagreement.excess import DifferenceCounts
from monitoring.flywheel.disagreement.pairs import LoggedAnswer
from monitoring.flywheel.disagreement.task import FlywheelTask, ModelAnswer


def count_unstable(
    rows: Sequence[LoggedAnswer], all_rows: Sequence[LoggedAnswer], again: Mapping[str, ModelAnswer], task: FlywheelTask
) -> DifferenceCounts:
    """Count the texts of `rows` that have a second answer of the champion, and those whose answers contradict each other.

    `all_rows` are all logged answers: two of them to one text, neither from the cache, are of two batches. `again` are answers
    in another precision, by the hash of the text.
    """
    batches: defaultdict[str, list[ModelAnswer]] = defaultdict(list)
    for row in all_rows:
        if not row.cache_hit:
            batches[row.text_hash].append(row.answer)
    texts = differing = 0
    for row in rows:
        others = batches[row.text_hash][-2:] if len(batches[row.text_hash]) > 1 else []
        others += [again[row.text_hash]] if row.text_hash in again else []
        texts += bool(others)
        differing += any(task.differ(row.answer, other) for other in others)
    return DifferenceCounts(texts, differing)
