"""All checks of a project in their order. Each may find several errors; they are raised together at the end."""

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from pipeline.check.check_line import CheckLine
from pipeline.errors import EvergreenError, ToolError, collecting, raise_all
from pipeline.home import find_home, require_commit
from pipeline.learning.param_conflicts import cpu_flags, has_gpu, refuse_conflicts
from pipeline.network.base_model import base_folder, check_lora, check_sizes, local_folder
from pipeline.params import Params
from pipeline.params.overrides import load_overridden

FREE_BYTES_NEEDED = 2 * 2**30


def check_project(
    params_file: Path = Path("params.yaml"), source: Path | None = None, overrides: Sequence[str] = ()
) -> Iterator[CheckLine]:
    """Yield what each check finds, then raise all errors. Write nothing except the home folder.

    `overrides` are those of `dvc exp run -S`; `source` takes the place of `data.source`. Impossible params end the check at once,
    because they decide how data is read.
    """
    params = load_overridden(params_file, overrides)
    if source:
        params = params.model_copy(update={"data": params.data.model_copy(update={"source": source})})
    yield CheckLine("passed", f"{params_file}: every key is known")
    refuse_conflicts(params, local_folder(params.model), has_gpu(), cpu_flags())
    yield CheckLine("passed", f"{params_file}: its settings can work together")
    from pipeline.check.data_files import check_data  # slow to import: bad params are reported first
    from pipeline.check.git_tracking import check_git

    checks: tuple[Callable[[Params], Iterator[CheckLine]], ...] = (check_tools, check_data, check_git, check_base)
    errors: list[EvergreenError] = []
    for check in checks:
        with collecting(errors):
            yield from check(params)
    raise_all(errors)


def check_base(params: Params) -> Iterator[CheckLine]:
    """Check that the base model is there, is the pinned one and fits the params."""
    base = base_folder(params.model)
    check_sizes(base, params.model)
    check_lora(base, params.model)
    how = "all weights trained" if params.model.method == "full" else f"adapters on {params.model.lora_targets}"
    yield CheckLine("passed", f"base model: {base}, {how}")


def check_tools(_params: Params) -> Iterator[CheckLine]:
    """Check Python, packages, git and free disk space; raise `ToolError`."""
    if sys.version_info[:2] != (3, 11):
        raise ToolError("Python", f"this is {sys.version.split()[0]}", "use Python 3.11, for which requirements.lock is made")
    for package in ("dvc", "pytriton"):
        if find_spec(package) is None:
            raise ToolError(package, "the package is not in this environment", "install it: rm .venv/ready && make .venv/ready")
    require_commit()
    home = find_home()
    free = shutil.disk_usage(home).free
    if free < FREE_BYTES_NEEDED:
        raise ToolError(
            str(home),
            f"only {free / 2**30:.1f} GiB are free on this disk",
            f"free {FREE_BYTES_NEEDED / 2**30:.0f} GiB, or set EVERGREEN_HOME",
        )
    yield CheckLine("passed", f"tools: git, Python 3.11, {free / 2**30:.0f} GiB free; state lives in {home}")
