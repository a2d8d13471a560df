"""Tokenises texts into the model's pieces."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer


def load_tokenizer(folder: Path, max_pieces: int) -> Tokenizer:
    """Load the fast tokenizer; it truncates at `max_pieces` and never pads."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(max_pieces)
    tokenizer.no_padding()
    return tokenizer


def to_pieces(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the piece ids of each text, special pieces included."""
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]


def count_cut(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    """Count the texts that have more pieces than the model reads."""
    return sum(bool(encoding.overflowing) for encoding in tokenizer.encode_batch(list(texts)))
