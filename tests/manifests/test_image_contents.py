"""Each image contains the packages that it imports and no others: by import statements, and by a start without other packages."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT
from tests.manifests.dockerfile import ENTRIES, image_packages, normalised_name

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
BY_NAME = {  # imported without an import statement
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
}  # imported in functions that this image does not call
NOT_NEEDED = {  # required by a package, but not for its use here
    "huggingface-hub": "tokenizers downloads with it",
    "openvino-telemetry": "openvino's converter sends telemetry with it",
    "flatbuffers": "onnxruntime's converters, which Triton does not run",
    "packaging": "likewise",
    "protobuf": "likewise",
}


@pytest.mark.parametrize("image", ENTRIES)
def test_no_image_contains_training_packages(image: str) -> None:
    assert not image_packages(image) & set(NEVER)


@pytest.mark.parametrize("image", ENTRIES)
def test_every_requirement_is_installed_or_excluded_with_a_reason(image: str) -> None:
    for name in image_packages(image):
        for text in distribution(name).requires or []:
            required = Requirement(text)
            if required.marker is None or required.marker.evaluate({"extra": ""}):
                assert normalised_name(required.name) in image_packages(image) | set(NOT_NEEDED), f"{name} requires {required}"


@pytest.mark.parametrize(("image", "module"), [(image, module) for image, modules in ENTRIES.items() for module in modules])
def test_every_imported_third_party_module_is_in_the_image(image: str, module: str) -> None:
    owners = packages_distributions()
    for source, name in sorted(third_party(require_source(module))):
        if name in ELSEWHERE[image]:
            continue
        assert {normalised_name(owner) for owner in owners.get(name, [name])} & image_packages(image), f"{source} imports {name}"


@pytest.mark.parametrize(("image", "module"), [(image, module) for image, modules in ENTRIES.items() for module in modules])
def test_the_process_starts_with_the_packages_of_the_image_alone(image: str, module: str) -> None:
    code = BLOCKER.format(allowed=sorted(image_packages(image) | {"evergreen"}), module=require_source(module))
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_gateways_image_contains_no_unused_package() -> None:
    owners = packages_distributions()
    modules = {name for module in ENTRIES["gateway"] for _, name in third_party(require_source(module))}
    needed = {normalised_name(owner) for name in modules for owner in owners.get(name, [])} | set(BY_NAME)
    while (
        more := {
            normalised_name(Requirement(text).name)
            for name in needed & image_packages("gateway")
            for text in distribution(name).requires or []
            if (marker := Requirement(text).marker) is None or marker.evaluate({"extra": ""}) or "extra" in str(marker)
        }
        - needed
    ):
        needed |= more
    assert image_packages("gateway") - needed == set()


BLOCKER = """
import re, sys
from importlib.metadata import packages_distributions

owners = {{top: {{re.sub(r"[-_.]+", "-", name).lower() for name in names}} for top, names in packages_distributions().items()}}
owners.pop("_distutils_hack", None)

class Absent:
    def find_spec(self, name, path=None, target=None):
        if not owners.get(name.split(".")[0], {{"evergreen"}}) & set({allowed}):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import {module}
"""


def require_source(module: str) -> str:
    if not source_of(module):
        pytest.skip(f"{module} is not written yet")
    return module


def source_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def third_party(module: str) -> set[tuple[str, str]]:
    """Return (our module, third-party name) of every import reachable from a module, inside functions too."""
    seen, third_party_imports, queue = set(), set(), [module]
    while queue:
        name = queue.pop()
        path = source_of(name)
        if name in seen or path is None:
            continue
        seen.add(name)
        for imported in imports(name, path):
            top = imported.split(".")[0]
            if top in ("pipeline", "serving", "state", "monitoring"):
                queue += [imported, imported.rpartition(".")[0]]
            elif top not in sys.stdlib_module_names:
                third_party_imports.add((name, top))
    return third_party_imports


def imports(module: str, path: Path) -> Iterator[str]:
    """Yield the dotted names of a module's imports; relative ones are made absolute."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parent, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if source_of(f"{base}.{alias.name}"))
