"""Import contracts, what loads without torch, names of files and classes."""

import ast
import re
import subprocess
import sys
from collections import Counter
from graphlib import CycleError
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests import architecture
from tests.architecture import Folder

ROOT = Path(__file__).parents[1]
PACKAGES = ("evergreen", "monitoring", "pipeline", "serving", "state")
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "manager"}
DEFINED_TWICE = {"Prediction", "Reference"}  # by MLflow's model and the API; by section reference and its record
HEAVY = ("torch", "transformers", "mlflow")
MOST_MODULES = 15
MORE_MODULES = {
    "pipeline.learning": 18,  # the engine's one idea per file; subfolders would hide its reading order
    "evergreen": 17,  # a file for each group of commands; a subfolder would import its parent, which imports it
}
LIMITS = re.compile(r"\b(no|not|nor|neither|nothing|never|none|only|alone|without|elsewhere|pure)\b", re.IGNORECASE)
GRAPH = architecture.read_graph()
FOLDERS = architecture.read_folders(GRAPH)
each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def loaded_by(module: str) -> set[str]:
    """Names of all modules that a fresh interpreter holds after importing this one."""
    code = f"import sys, {module}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_contracts_hold() -> None:
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([str(program), "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize(
    "module",
    [
        "pipeline.params",
        "pipeline.data.records",
        "pipeline.reference_profile",
        "state.database",
        "monitoring.monitor.app",
        "monitoring.retrain.receiver.app",
        "evergreen.cli",
    ],
)
def test_servers_and_monitor_start_without_torch_and_mlflow(module: str) -> None:
    assert not loaded_by(module) & set(HEAVY)


def test_detectors_and_profile_need_numpy_alone() -> None:
    loaded = loaded_by("monitoring.detectors, pipeline.reference_profile") - loaded_by("sys")
    others = set(packages_distributions()) & {name.split(".")[0] for name in loaded} - {*PACKAGES}
    assert others == {"numpy"}


def test_what_travels_with_a_model_needs_three_libraries_and_none_of_ours() -> None:
    loaded = loaded_by("pipeline.runtime.classifier")
    assert {"numpy", "onnxruntime", "tokenizers"} <= loaded
    ours = {name for name in loaded if name.split(".")[0] in PACKAGES}
    assert {name for name in ours if name != "pipeline" and not name.startswith("pipeline.runtime")} == set()
    assert not loaded & {*HEAVY, "pydantic", "sklearn", "pandas"}


@pytest.mark.parametrize("package", PACKAGES)
def test_files_are_named_by_the_thing_they_own(package: str) -> None:
    modules = list((ROOT / package).rglob("*.py"))
    assert modules
    assert not [path for path in modules if VAGUE_NAMES & {path.stem, *path.parent.parts}]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_owns(package: str) -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / package).rglob("*.py")}
    silent = [path for path, source in sources.items() if source and not source.startswith('"""')]
    assert not silent


def test_architecture_page_is_drawn_from_this_code() -> None:
    page = architecture.PAGE.read_text(encoding="utf-8")
    assert page.count(architecture.BEGIN) == page.count(architecture.END) == 1
    assert architecture.replace_drawn_part(page, architecture.render()) == page, "run: make architecture"


@each_folder
def test_folders_are_small_enough_to_read(folder: Folder) -> None:
    assert folder.modules <= MORE_MODULES.get(folder.name, MOST_MODULES)


def test_folders_of_tests_are_small_enough_to_read() -> None:
    modules = Counter(path.parent.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py") if path.name != "__init__.py")
    assert not {folder.as_posix(): count for folder, count in modules.items() if count > MOST_MODULES}


@each_folder
def test_every_folder_says_what_it_is_for_and_what_it_must_not_know(folder: Folder) -> None:
    assert 1 <= len(re.findall(r"[.!](?:\s|$)", folder.purpose)) <= 2, folder.purpose
    assert LIMITS.search(folder.purpose), f"{folder.purpose!r} names no limit"


def test_folders_import_each_other_without_a_cycle() -> None:
    assert architecture.reduce_imports(architecture.read_imports(GRAPH))


def test_an_import_that_follows_from_others_is_not_drawn() -> None:
    assert architecture.reduce_imports({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_a_cycle_of_folders_is_noticed() -> None:
    with pytest.raises(CycleError):
        architecture.reduce_imports({"a": {"b"}, "b": {"a"}})


def test_no_public_class_has_the_name_of_another() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    classes = [node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert {name for name, count in Counter(classes).items() if count > 1 and not name.startswith("_")} == DEFINED_TWICE
