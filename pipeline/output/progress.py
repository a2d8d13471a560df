"""Progress bars: in a terminal, and in a notebook as the notebook's own. A caller of Python can hide them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_hidden = ContextVar("hidden", default=False)


def progress_bar(*rows: Any, disable: bool = False, **options: Any) -> Any:
    """Return a bar of tqdm; without ipywidgets, a notebook shows it as text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the advice to install ipywidgets
        from tqdm.auto import tqdm

    return tqdm(*rows, mininterval=1.0, dynamic_ncols=True, disable=disable or _hidden.get(), **options)


@contextmanager
def hidden_progress(is_hidden: bool = True) -> Iterator[None]:
    """Show no bars within the context."""
    token = _hidden.set(is_hidden)
    try:
        yield
    finally:
        _hidden.reset(token)
