"""Fixtures: every overlay, rendered once, and a model repository for Triton."""

import os
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.manifests.rendered import Object, kustomize
from tests.manifests.triton_container import fetch_models

COMPONENTS = {"local with an object store": "object-store", "local with monitoring": "monitoring"}
RENDERED = ("local", "gpu", *COMPONENTS)


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Object]]:
    """Render every overlay, and the local one with each component."""
    overlays = {path.name: kustomize(path) for path in sorted((ROOT / "k8s/overlays").iterdir())}
    for name, component in COMPONENTS.items():
        folder = tmp_path_factory.mktemp("overlay").resolve()
        relative = os.path.relpath(ROOT / "k8s", folder)
        overlay = {
            "namespace": "evergreen",
            "resources": [f"{relative}/overlays/local"],
            "components": [f"{relative}/components/{component}"],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        overlays[name] = kustomize(folder)
    return overlays


@pytest.fixture(params=RENDERED)
def objects(request: pytest.FixtureRequest, rendered: dict[str, list[Object]]) -> list[Object]:
    return rendered[request.param]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return the model repository that Triton's container starts with."""
    return fetch_models(tmp_path)
