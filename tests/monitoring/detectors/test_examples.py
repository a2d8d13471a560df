"""The examples in the detectors' docstrings give the results they show."""

import doctest
import importlib
import pkgutil

import pytest

from monitoring import detectors

MODULES = [module.name for module in pkgutil.iter_modules(detectors.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_every_detector_shows_examples_and_they_run(name: str) -> None:
    module = importlib.import_module(f"monitoring.detectors.{name}")
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_every_public_function_of_a_detector_shows_an_example(name: str) -> None:
    module = importlib.import_module(f"monitoring.detectors.{name}")
    functions = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
    public = [value for value in functions if not isinstance(value, type) and not value.__name__.startswith("_")]
    assert public
    assert [value.__name__ for value in public if ">>>" not in (value.__doc__ or "")] == []
