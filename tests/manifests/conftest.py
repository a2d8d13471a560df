"""Every overlay, rendered once, and a repository for Triton."""

import os
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.manifests.pods_here import put_models
from tests.manifests.rendered import Object, kustomize

COMPONENTS = {"local with an object store": "object-store", "local with monitoring": "monitoring"}
RENDERED = ("local", "gpu", *COMPONENTS)


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Object]]:
    """Every overlay, and one with each component."""
    overlays = {path.name: kustomize(path) for path in sorted((ROOT / "k8s/overlays").iterdir())}
    for name, component in COMPONENTS.items():
        folder = tmp_path_factory.mktemp("overlay").resolve()
        near = os.path.relpath(ROOT / "k8s", folder)
        overlay = {
            "namespace": "evergreen",
            "resources": [f"{near}/overlays/local"],
            "components": [f"{near}/components/{component}"],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        overlays[name] = kustomize(folder)
    return overlays


@pytest.fixture(params=RENDERED)
def objects(request: pytest.FixtureRequest, rendered: dict[str, list[Object]]) -> list[Object]:
    return rendered[request.param]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """What Triton's container finds when it starts."""
    return put_models(tmp_path)
