"""Held-out texts to try: texts that the model finds clear, and texts that it confused when it was measured."""

from pathlib import Path

import sqlalchemy as sa

from pipeline.card.facts import CARD, read_report
from pipeline.errors import EvergreenError
from pipeline.session.golden_answers import read_golden
from serving.release.manifest import version_folder
from serving.release.release_table import find_release
from state.database import read_state

CLEAR, CONFUSED = 4, 2
MAX_CHARS = 160  # a longer text hides the page below


def example_texts(home: Path) -> list[str]:
    """Return texts for the champion; none where nothing is published, or its folder is not here."""
    try:
        with read_state(home) as connection:
            release = None if connection is None else find_release(connection, role="champion")
        if release is None:
            return []
        folder = version_folder(home, release.version)
        golden = [text for text in read_golden(folder).texts if len(text) <= MAX_CHARS]
    except (EvergreenError, sa.exc.SQLAlchemyError, OSError, ValueError):
        return []
    clear = golden[:: max(1, len(golden) // CLEAR)][:CLEAR]
    pairs = read_report(folder / CARD).get("report", {}).get("confused_pairs", [])
    confused = [text for pair in pairs for text in pair["texts"][:1] if len(text) <= MAX_CHARS]
    return list(dict.fromkeys([*clear, *confused[:CONFUSED]]))
