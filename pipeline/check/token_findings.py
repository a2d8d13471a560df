"""Findings of the base model's tokenizer: texts that are cut, and a language that it was not made for."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from pipeline.check.check_line import CheckLine
from pipeline.check.text_findings import place
from pipeline.data.labelled_files import LocatedExample
from pipeline.params import Model
from pipeline.params.overrides import as_override

MAX_TEXTS = 10_000  # of which tokens are counted: the first of the files
CUT_SHARE = 0.01  # of texts; fewer are mentioned, and are no warning
STEP = 64  # of the setting that is proposed
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
MIN_WORDS = 200
SPLIT = 1.5  # tokens a word: English texts have 1.06 to 1.25 here, Spanish ones 1.74
ENGLISH_SHARE = 0.15  # of words: English texts have 0.27 (bug reports with code) to 0.55, Spanish ones 0.07
ENGLISH = frozenset(  # the most frequent words
    re.findall(
        r"\w+",
        "a about all an and any are as at be been but by can come could did do does each for from get go had has have he her "
        "him his how i if in into is it its like look make many may me more my need no not now of on or other our out said see "
        "she so some than that the their them then there these they this time to two up use want was way we were what when "
        "which who will with would you your",
    )
)
MULTILINGUAL = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"


class Words(NamedTuple):
    """The words of some texts: how many, the share that is frequent in English, and tokens for each."""

    total: int
    english_share: float
    tokens: float


def check_tokens(
    rows: Sequence[LocatedExample], source: Path, tokenizer: Tokenizer, model: Model, positions: int | None
) -> Iterator[CheckLine]:
    """Warn about texts that `max_pieces` cuts, and about texts whose words the tokenizer does not know."""
    rows = rows[:MAX_TEXTS]
    tokenizer.no_truncation()
    tokenizer.no_padding()
    sizes = [len(encoding.ids) for encoding in tokenizer.encode_batch([row.example.text for row in rows])]
    yield from _cut(rows, sizes, source, model, positions)
    yield from _language(rows, tokenizer, model)


def read_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a base model."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def count_words(texts: Sequence[str], tokenizer: Tokenizer) -> Words:
    """Count words of letters; symbols, numbers and identifiers with digits say nothing about a language."""
    counts = Counter(word for text in texts for word in WORD.findall(text.lower()))
    encodings = tokenizer.encode_batch(list(counts), add_special_tokens=False)
    tokens = sum(len(encoding.ids) * count for encoding, count in zip(encodings, counts.values(), strict=True))
    total = max(1, counts.total())
    return Words(counts.total(), sum(counts[word] for word in ENGLISH) / total, tokens / total)


def _cut(
    rows: Sequence[LocatedExample], sizes: Sequence[int], source: Path, model: Model, positions: int | None
) -> Iterator[CheckLine]:
    cut = sorted(((size, row) for size, row in zip(sizes, rows, strict=True) if size > model.max_pieces), key=lambda s: -s[0])
    if not cut:
        return
    lost = sum(size - model.max_pieces for size, _ in cut) / sum(size for size, _ in cut)
    size, longest = cut[0]
    share = len(cut) / len(rows)
    what = f"{len(cut)} of {len(rows)} texts are longer than model.max_pieces = {model.max_pieces} tokens and are cut"
    loss = f"they lose {lost:.0%} of their tokens; the longest, {place(longest, source)}, has {size}"
    yield CheckLine("warning" if share > CUT_SHARE else "detail", f"{what}: {loss}")
    if share > CUT_SHARE:
        wanted = _enough(sizes, positions)
        if wanted > model.max_pieces:
            covered = sum(size <= wanted for size in sizes) / len(sizes)
            cost = "training and long requests take longer"
            yield CheckLine("detail", f"-S model.max_pieces={wanted} holds {covered:.0%} of the texts whole; {cost}")


def _enough(sizes: Sequence[int], positions: int | None) -> int:
    """Return a limit that 99% of the texts keep, or the base model's own."""
    needed = sorted(sizes)[int(0.99 * (len(sizes) - 1))]
    rounded = -(-needed // STEP) * STEP
    return min(rounded, positions) if positions else rounded


def _language(rows: Sequence[LocatedExample], tokenizer: Tokenizer, model: Model) -> Iterator[CheckLine]:
    words = count_words([row.example.text for row in rows], tokenizer)
    if words.total < MIN_WORDS or words.tokens <= SPLIT or words.english_share >= ENGLISH_SHARE:
        return
    share = f"{words.english_share:.0%} of the words are frequent English ones"
    yield CheckLine(
        "warning", f"these texts are hardly English: {model.base} splits a word into {words.tokens:.2f} tokens, {share}"
    )
    yield CheckLine(
        "detail", "it was trained on English, so expect a lower accuracy; the control in the report has the same limit"
    )
    base = f"-S {as_override('model.base', MULTILINGUAL)} -S model.weights_sha256=any"
    yield CheckLine("detail", f"a base model for the language helps, by name or as a folder, for example: {base}")
