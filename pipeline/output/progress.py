"""Progress bars: in a terminal, and in a notebook as the notebook's own. A caller of Python can hide them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_hidden = ContextVar("hidden", default=False)


def progress_bar(*rows: Any, disable: bool = False, **options: Any) -> Any:
    """Return a bar of tqdm; without ipywidgets, a notebook shows it as text."""
    bar = _bar_of_this_place()
    return bar(*rows, mininterval=1.0, dynamic_ncols=True, disable=disable or _hidden.get(), **options)


@contextmanager
def progress(*, is_shown: bool) -> Iterator[None]:
    """Show bars within the context, or none; libraries imported in it do not ask a notebook's reader for ipywidgets."""
    _bar_of_this_place()
    token = _hidden.set(not is_shown)
    try:
        yield
    finally:
        _hidden.reset(token)


def _bar_of_this_place() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the advice to install ipywidgets comes at the first import
        from tqdm.auto import tqdm

    return tqdm
