"""The console script, `make repro`, `make loop` and the Python API, for people. No other package imports this one.

`import evergreen` imports nothing: a name of the API is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evergreen.api.estimator import EvergreenClassifier
    from evergreen.api.loading import load
    from evergreen.api.model import EvergreenModel
    from evergreen.api.project import tracking_uri
    from evergreen.api.training import train
    from pipeline.errors import EvergreenError, InputError, RefusedError, ToolError

__all__ = [
    "EvergreenClassifier",
    "EvergreenError",
    "EvergreenModel",
    "InputError",
    "RefusedError",
    "ToolError",
    "load",
    "tracking_uri",
    "train",
]

_MODULES = {
    "EvergreenClassifier": "evergreen.api.estimator",
    "EvergreenError": "pipeline.errors",
    "EvergreenModel": "evergreen.api.model",
    "InputError": "pipeline.errors",
    "RefusedError": "pipeline.errors",
    "ToolError": "pipeline.errors",
    "load": "evergreen.api.loading",
    "tracking_uri": "evergreen.api.project",
    "train": "evergreen.api.training",
}


def __getattr__(name: str) -> Any:
    """Import a name of the API when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'evergreen' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    """Name the API, so that completion offers it."""
    return sorted({*globals(), *__all__})
