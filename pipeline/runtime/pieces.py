"""Texts to pieces, as the model reads them."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer


def load_tokenizer(folder: Path, max_pieces: int) -> Tokenizer:
    """The fast tokenizer, truncating at `max_pieces` and never padding by itself."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(max_pieces)
    tokenizer.no_padding()
    return tokenizer


def to_pieces(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Piece ids of each text, special pieces included."""
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
