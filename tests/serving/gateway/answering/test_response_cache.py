"""The response cache: bounded in bytes as the process pays them, whatever the texts are."""

import gc
import tracemalloc

import pytest

from serving.gateway.answering.response_cache import ResponseCache
from serving.prediction import ModelOutput

MIB = 2**20
TEXTS = {
    "short": "{} where is my parcel?",
    "long": "{} " + "where is my parcel? " * 200,
    "emoji": "{} " + "\U0001f600" * 3990,
    "accents": "{} " + "é" * 3990,
}


def output(number: int) -> ModelOutput:
    return ModelOutput(f"label {number}", 0.5 + number / 1e9, "other", 300 + number, 1.5 + number / 1e9, bytes(128), bytes(154))


@pytest.mark.parametrize("kind", TEXTS)
def test_the_cache_never_uses_more_memory_than_it_may(kind: str) -> None:
    gc.collect()
    tracemalloc.start()
    cache = ResponseCache(2 * MIB, ttl_s=3600)
    for number in range(4000):
        cache.put(1, TEXTS[kind].format(number), output(number))
    gc.collect()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert cache.bytes <= 2 * MIB
    assert 1.5 * MIB < used < 2 * MIB
    assert cache.get(1, TEXTS[kind].format(3999)) == output(3999)


def test_the_least_recently_used_entries_go_first() -> None:
    cache = ResponseCache(4000, ttl_s=3600)
    cache.put(1, "first", output(1))
    cache.put(1, "second", output(2))
    assert cache.get(1, "first") == output(1)
    cache.put(1, "third", output(3))
    cache.put(2, "first", output(4))
    assert cache.get(1, "second") is None
    assert (cache.get(1, "first"), cache.get(2, "first")) == (output(1), output(4))
    assert len(cache) == 3


def test_a_cache_of_no_bytes_stores_nothing_and_a_text_that_is_too_long_leaves_the_others() -> None:
    none, small = ResponseCache(0, ttl_s=3600), ResponseCache(3000, ttl_s=3600)
    none.put(1, "a", output(1))
    small.put(1, "a", output(1))
    small.put(1, "b" * 4000, output(2))
    assert (len(none), none.bytes, none.get(1, "a")) == (0, 0, None)
    assert (len(small), small.get(1, "a")) == (1, output(1))


def test_half_of_a_surrogate_pair_is_a_text_too() -> None:
    cache = ResponseCache(3000, ttl_s=3600)
    cache.put(1, "\ud83d", output(1))
    assert cache.get(1, "\ud83d") == output(1)
