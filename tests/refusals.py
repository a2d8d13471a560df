"""Errors of checks that return nothing, as values: a test that expects none compares with "", and shows any other."""

from collections.abc import Callable


def error_of(check: Callable[..., object], *arguments: object) -> str:
    """Return what a check raises; "" when it raises nothing."""
    try:
        check(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
