"""A message for Microsoft Teams: the inbox's cards as one Adaptive Card, for a workflow that posts webhook alerts to a channel.

Texts are text runs, which Teams shows as they are: a link or a mention in a label stays plain text.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from monitoring.inbox.incidents import Card

MAX_CHARS = 20_000  # Teams refuses messages above 28 KB


def teams_message(cards: Sequence[Card], inbox_page: str, *, is_test: bool) -> dict[str, Any]:
    """Return the body that Teams takes."""
    blocks = [block for card in cards for block in _blocks(card, is_test=is_test)]
    content = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": _within(blocks, MAX_CHARS),
        "actions": [{"type": "Action.OpenUrl", "title": "Open the inbox", "url": inbox_page}],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": content}
    return {"type": "message", "attachments": [attachment]}


def _blocks(card: Card, *, is_test: bool) -> Iterator[dict[str, Any]]:
    state = "TEST" if is_test else "no longer reported" if card.status != "firing" else card.severity.upper()
    yield _text(f"{state}: {card.title}", weight="Bolder", size="Medium")
    for line in card.lines:
        ended = f" No longer reported since {_time(line.ended_at)}." if line.ended_at is not None else f" {line.evidence}"
        yield _text(f"{line.summary}, since {_time(line.started_at)}.{ended}")
    next_step = f"{card.next_step}: {card.command}" if card.command else card.next_step
    facts = {
        "How sure": "; ".join(card.sure),
        "What it costs": card.cost,
        "What was decided": card.decided,
        "Next": next_step,
        "Look closer": card.look,
        "Runbook": card.runbook,
    }
    yield from (_text(f"{name}: {text}") for name, text in facts.items() if text)


def _text(text: str, **style: str) -> dict[str, Any]:
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text, **style}]}


def _within(blocks: list[dict[str, Any]], chars: int) -> list[dict[str, Any]]:
    """Return the first blocks that fit, and say how many are left out."""
    kept: list[dict[str, Any]] = []
    for block in blocks:
        chars -= len(block["inlines"][0]["text"])
        if chars < 0:
            return [*kept, _text(f"… {len(blocks) - len(kept)} more lines are in the inbox")]
        kept.append(block)
    return kept


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
