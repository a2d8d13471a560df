"""The response cache: a version's output for a text, bounded in bytes and age. Knows no queue and no HTTP."""

from operator import itemgetter

from cachetools import TTLCache

from serving.prediction import ModelOutput

ENTRY_BYTES = 1000  # of an entry without its text, sketch and probabilities: objects, and their places in the cache's tables
Key = tuple[int, bytes]


class ResponseCache:
    """At most `at_most_bytes` of memory, the least recently used entries go first; 0 stores nothing."""

    def __init__(self, at_most_bytes: int, ttl_s: float) -> None:
        self._cache: TTLCache[Key, tuple[ModelOutput, int]] = TTLCache(at_most_bytes, ttl_s, getsizeof=itemgetter(1))

    def __len__(self) -> int:
        return len(self._cache)

    @property
    def bytes(self) -> int:
        """Memory that the entries use."""
        return int(self._cache.currsize)

    def get(self, version: int, text: str) -> ModelOutput | None:
        """Return the version's output for a text, None when it is not stored."""
        entry = self._cache.get((version, _encoded(text)))
        return entry[0] if entry else None

    def put(self, version: int, text: str, output: ModelOutput) -> None:
        """Store an output, unless it is larger than the whole cache."""
        key = (version, _encoded(text))
        size = ENTRY_BYTES + len(key[1]) + len(output.sketch) + len(output.probabilities)
        if size <= self._cache.maxsize:
            self._cache[key] = (output, size)


def _encoded(text: str) -> bytes:
    """Return the text as bytes: a `str` needs four bytes for each character beside an emoji, and as much again once encoded."""
    return text.encode("utf-8", "surrogatepass")
