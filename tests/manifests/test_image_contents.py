"""What lies in each image: all that is imported there and no more, by the import statements and by a start without the rest."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT
from tests.manifests.dockerfile import ENTRIES, installed, plain

NEVER = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "mlflow",
    "mlflow-skinny",
    "mlflow-tracing",
    "dvc",
    "nvidia-pytriton",
    "scikit-learn",
)
BY_NAME = {  # imported where no import statement names it
    "uvloop": "uvicorn",
    "httptools": "uvicorn",
    "aiohttp": "fsspec, for http and https",
    "psycopg": "SQLAlchemy, by the URL of the state",
    "psycopg-binary": "psycopg",
}
ELSEWHERE = {
    "gateway": {"openvino"},
    "monitor": {"openvino", "river"},
    "triton": set(),
}  # imported by a function that this image does not call
LEFT_OUT = {  # required by a package, but not for what it does here
    "huggingface-hub": "tokenizers downloads with it",
    "openvino-telemetry": "openvino's converter tells its makers with it",
    "flatbuffers": "onnxruntime's converters, which Triton does not run",
    "packaging": "likewise",
    "protobuf": "likewise",
}


@pytest.mark.parametrize("image", ENTRIES)
def test_what_makes_models_stays_out(image: str) -> None:
    assert not installed(image) & set(NEVER)


@pytest.mark.parametrize("image", ENTRIES)
def test_what_a_package_requires_is_there_or_left_out_for_a_reason(image: str) -> None:
    for name in installed(image):
        for text in distribution(name).requires or []:
            required = Requirement(text)
            if required.marker is None or required.marker.evaluate({"extra": ""}):
                assert plain(required.name) in installed(image) | set(LEFT_OUT), f"{name} requires {required}"


@pytest.mark.parametrize(("image", "module"), [(image, module) for image, modules in ENTRIES.items() for module in modules])
def test_every_third_party_module_that_is_imported_is_in_the_image(image: str, module: str) -> None:
    owners = packages_distributions()
    for source, name in sorted(third_party(existing(module))):
        if name in ELSEWHERE[image]:
            continue
        assert {plain(one) for one in owners.get(name, [name])} & installed(image), f"{source} imports {name}"


@pytest.mark.parametrize(("image", "module"), [(image, module) for image, modules in ENTRIES.items() for module in modules])
def test_it_starts_with_the_packages_of_the_image_alone(image: str, module: str) -> None:
    code = BLOCKER.format(allowed=sorted(installed(image) | {"evergreen"}), module=existing(module))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_gateways_image_holds_nothing_that_nobody_imports() -> None:
    owners = packages_distributions()
    modules = {name for module in ENTRIES["gateway"] for _, name in third_party(existing(module))}
    needed = {plain(owner) for name in modules for owner in owners.get(name, [])} | set(BY_NAME)
    while (
        more := {
            plain(Requirement(text).name)
            for name in needed & installed("gateway")
            for text in distribution(name).requires or []
            if (marker := Requirement(text).marker) is None or marker.evaluate({"extra": ""}) or "extra" in str(marker)
        }
        - needed
    ):
        needed |= more
    assert installed("gateway") - needed == set()


BLOCKER = """
import re, sys
from importlib.metadata import packages_distributions

owners = {{top: {{re.sub(r"[-_.]+", "-", one).lower() for one in found}} for top, found in packages_distributions().items()}}
owners.pop("_distutils_hack", None)

class Absent:
    def find_spec(self, name, path=None, target=None):
        if not owners.get(name.split(".")[0], {{"evergreen"}}) & set({allowed}):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import {module}
"""


def existing(module: str) -> str:
    if not source_of(module):
        pytest.skip(f"{module} is not written yet")
    return module


def source_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((one for one in candidates if one.is_file()), None)


def third_party(module: str) -> set[tuple[str, str]]:
    """(our module, foreign top-level name) of all that may be imported once this module is, inside functions too."""
    seen, found, todo = set(), set(), [module]
    while todo:
        name = todo.pop()
        path = source_of(name)
        if name in seen or path is None:
            continue
        seen.add(name)
        for imported in imports(name, path):
            top = imported.split(".")[0]
            if top in ("pipeline", "serving", "state", "monitoring"):
                todo += [imported, imported.rpartition(".")[0]]
            elif top not in sys.stdlib_module_names:
                found.add((name, top))
    return found


def imports(module: str, path: Path) -> Iterator[str]:
    """Dotted names of a module's imports; relative ones made absolute."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parent, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if source_of(f"{base}.{alias.name}"))
