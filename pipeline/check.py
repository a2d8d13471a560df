"""`evergreen check`: find what is wrong with params, data and tools before the pipeline starts."""

import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import ToolError
from pipeline.home import find_home, require_commit
from pipeline.learning.param_conflicts import cpu_flags, has_gpu, refuse_conflicts
from pipeline.network.base_model import base_folder, check_lora, check_sizes, local_folder
from pipeline.params import load_params

FREE_BYTES_NEEDED = 2 * 2**30
FEEDBACK = Path("data/feedback")


def check_project(params_file: Path = Path("params.yaml")) -> Iterator[str]:
    """Yield one line for each check that passes; raise at the first that fails. Write nothing except the home folder."""
    params = load_params(params_file)
    yield f"{params_file}: every key is known"
    refuse_conflicts(params, local_folder(params.model), has_gpu(), cpu_flags())
    yield f"{params_file}: its settings can work together"
    yield check_tools()
    from pipeline.data.given_labels import label_rules
    from pipeline.data.unlabelled import read_unlabelled, trainable  # slow to import: bad params are reported first
    from pipeline.stages.ingest import ingest
    from pipeline.stages.split import split

    data = params.data
    ingested = ingest(data.source, data.test, FEEDBACK, data, label_rules(params))
    report = ingested.report
    set_aside = report["quarantined"]["rows"]
    yield f"{data.source}: {report['accepted']} rows, {len(report['classes'])} classes, {set_aside} rows set aside"
    sides = split(ingested.rows, ingested.test, params.split)
    yield f"split: {len(sides.train)} train, {len(sides.val)} validation, {len(sides.test)} test rows"
    if unlabelled := read_unlabelled(data.unlabelled, data).texts:
        texts = trainable(unlabelled, sides[:3], params.split, sides.test_share)
        yield f"{data.unlabelled}: {len(unlabelled)} texts, {len(texts)} of them to spread labels to"
    base = base_folder(params.model)
    check_sizes(base, params.model)
    check_lora(base, params.model)
    how = "all weights trained" if params.model.method == "full" else f"adapters on {params.model.lora_targets}"
    yield f"base model: {base}, {how}"


def check_tools() -> str:
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
    return f"tools: git, Python 3.11, {free / 2**30:.0f} GiB free; state lives in {home}"
