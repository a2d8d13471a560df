"""dvc.yaml lists everything that a stage's result depends on, and nothing else.

Some modules are exempt because they affect messages and telemetry but no results: errors, home, loopback, process_identity, and
those of the folders output and tracking. An `__init__` counts only when it holds more than a docstring.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pipeline.params import Params, load_params

ROOT = Path(__file__).parents[1]
OUTPUT = ("__init__", "plain_logs", "plain_text", "progress", "terminal")
TRACKING = ("__init__", "address", "descriptions", "logged_models", "pyfunc_model", "registry", "runs", "store")
EXEMPT = {
    *(f"pipeline/{name}.py" for name in ("errors", "home", "loopback", "process_identity")),
    *(f"pipeline/output/{name}.py" for name in OUTPUT),
    *(f"pipeline/tracking/{name}.py" for name in TRACKING),
}
PACKAGES = {"pipeline", "serving"}


class Stage(NamedTuple):
    """One stage of dvc.yaml, with interpolations resolved."""

    name: str
    cmd: str
    deps: list[str]
    params: list[str]
    outs: list[str]
    named_by_params: list[str]  # the deps whose names are in params.yaml

    @property
    def source(self) -> str:
        """Return the file that `python -m` runs."""
        return self.cmd.split(" -m ")[1].split()[0].replace(".", "/") + ".py"

    @property
    def arguments(self) -> list[str]:
        """Return the paths on the command line."""
        return [word for word in self.cmd.split(" -m ")[1].split()[1:] if not word.startswith("--")]


def read_stages() -> list[Stage]:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))

    def resolve(text: str) -> str:
        return re.sub(r"\$\{(\w+)\.(\w+)\}", lambda match: str(values[match[1]][match[2]]), text)

    def paths(entries: list[Any]) -> list[str]:
        return [resolve(entry if isinstance(entry, str) else next(iter(entry))) for entry in entries]

    return [
        Stage(
            name,
            stage["cmd"],
            paths(stage["deps"]),
            stage.get("params", []),
            paths([*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]),
            [resolve(dep) for dep in stage["deps"] if "${" in dep],
        )
        for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items()
    ]


STAGES = read_stages()
each_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


def covers(folder: str, path: str) -> bool:
    """Return True when `path` is `folder` or lies in it."""
    return Path(path).is_relative_to(folder)


def syntax(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def file_of(module: str) -> str | None:
    """Return the file of one of our modules; None for other modules and for packages whose `__init__` is only a docstring."""
    if module.split(".")[0] not in PACKAGES:
        return None
    path = module.replace(".", "/")
    if (ROOT / f"{path}.py").is_file():
        return f"{path}.py"
    init = f"{path}/__init__.py"
    return init if (ROOT / init).is_file() and len(syntax(init).body) > 1 else None


def imports(path: str) -> Iterator[str]:
    """Yield our files that this one imports, also inside functions."""
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*parent, *filter(None, [node.module])])
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from filter(None, map(file_of, names))


def reached(path: str, files: set[str]) -> set[str]:
    """Add the file and all that it imports, directly or not, to `files`, except for the exempt ones."""
    if path not in files and path not in EXEMPT:
        files.add(path)
        for imported in imports(path):
            reached(imported, files)
    return files


def logged_sections(path: str) -> set[str]:
    """Return the sections of params that a stage logs to MLflow: the prefixes in its calls of `flatten`."""
    tree = syntax(path)
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "flatten"]
    fixed = {call.args[1].value for call in calls if isinstance(call.args[1], ast.Constant)}
    over = {call.args[1].id for call in calls if isinstance(call.args[1], ast.Name)}
    loops = [n for n in ast.walk(tree) if isinstance(n, ast.comprehension) and getattr(n.target, "id", None) in over]
    return fixed | {name for loop in loops for name in ast.literal_eval(loop.iter)}


def used_sections(path: str) -> set[str]:
    """Return the sections of params that a stage reads: `params.train`, `load_params().package`."""
    sections = set()
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Attribute) and node.attr in Params.model_fields:
            named = isinstance(node.value, ast.Name) and node.value.id == "params"
            loaded = isinstance(node.value, ast.Call) and getattr(node.value.func, "id", None) == "load_params"
            sections |= {node.attr} if named or loaded else set()
    return sections


def upstream(stage: Stage) -> list[Stage]:
    """Return the stage and those whose outputs it depends on, directly or not."""
    feeding = [other for other in STAGES if any(covers(dep, out) or covers(out, dep) for dep in stage.deps for out in other.outs)]
    return [stage, *(ancestor for other in feeding for ancestor in upstream(other))]


@each_stage
def test_deps_cover_all_that_the_stage_imports(stage: Stage) -> None:
    files = reached(stage.source, set())
    assert stage.source in files
    assert sorted(file for file in files if not any(covers(dep, file) for dep in stage.deps)) == []


@each_stage
def test_deps_name_no_source_that_the_stage_does_not_use(stage: Stage) -> None:
    files = reached(stage.source, set()) | {"pipeline/runtime/__init__.py", "serving/backend/model.py"}  # these two are copied
    sources = [dep for dep in stage.deps if dep.split("/")[0] in PACKAGES]
    assert [dep for dep in sources if not any(covers(dep, file) for file in files)] == []


@each_stage
def test_every_dep_exists_or_is_made_by_another_stage(stage: Stage) -> None:
    made = [out for other in STAGES if other is not stage for out in other.outs]
    absent = [dep for dep in stage.deps if not (ROOT / dep).exists() or dep.startswith("artifacts/")]
    assert [dep for dep in absent if not any(covers(out, dep) for out in made)] == []


@each_stage
def test_every_param_is_one_of_the_records(stage: Stage) -> None:
    shipped = load_params(ROOT / "params.yaml")
    for key in stage.params:
        section, _, name = key.partition(".")
        assert section in Params.model_fields
        assert not name or name in type(getattr(shipped, section)).model_fields


@each_stage
def test_every_section_that_is_read_is_tracked_by_the_stage_itself(stage: Stage) -> None:
    """An upstream stage may run again and write the same rows, so its params do not count. Params only logged may be upstream."""
    tracked = {key.split(".")[0] for key in stage.params}
    assert used_sections(stage.source) - logged_sections(stage.source) <= tracked


@each_stage
def test_every_section_that_is_logged_is_tracked_here_or_upstream(stage: Stage) -> None:
    tracked = {key.split(".")[0] for ancestor in upstream(stage) for key in ancestor.params}
    assert (used_sections(stage.source) | logged_sections(stage.source)) <= tracked


def test_logged_sections_finds_the_calls_of_every_stage_that_logs() -> None:
    logged = {stage.name: logged_sections(stage.source) for stage in STAGES}
    assert {name: sections for name, sections in logged.items() if sections} == {
        "train": {"data", "split", "spread", "model", "train"},
        "evaluate": {"abstain", "evaluate"},
        "reference": {"reference"},
        "export": {"export"},
        "select_session": {"session"},
    }


@each_stage
def test_the_command_names_every_output(stage: Stage) -> None:
    assert stage.outs
    assert [out for out in stage.outs if not any(covers(word, out) for word in stage.arguments)] == []


@each_stage
def test_the_command_names_every_input(stage: Stage) -> None:
    """Except those that params.yaml names."""
    inputs = [dep for dep in stage.deps if dep.split("/")[0] not in PACKAGES and dep not in stage.named_by_params]
    assert [dep for dep in inputs if not any(covers(word, dep) for word in stage.arguments)] == []


@each_stage
def test_no_command_interpolates_a_param(stage: Stage) -> None:
    """A shell would read it: a blank, a bracket or a dollar in the name of a file would be syntax."""
    assert "${" not in stage.cmd


@each_stage
def test_the_command_names_nothing_that_dvc_does_not_know(stage: Stage) -> None:
    known = [*stage.deps, *stage.outs]
    assert [word for word in stage.arguments if not any(covers(word, path) or covers(path, word) for path in known)] == []


@each_stage
def test_outputs_lie_in_artifacts(stage: Stage) -> None:
    assert [out for out in stage.outs if not covers("artifacts", out)] == []


def test_no_two_stages_write_the_same_path() -> None:
    outs = [(stage.name, out) for stage in STAGES for out in stage.outs]
    assert [(a, b) for a, out in outs for b, other in outs if a != b and covers(out, other)] == []


def test_plots_are_drawn_from_outputs() -> None:
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    sources = {path for plot in plots for spec in plot.values() for axis in "xy" for path in spec[axis]}
    assert sources
    assert sources <= {out for stage in STAGES for out in stage.outs}
