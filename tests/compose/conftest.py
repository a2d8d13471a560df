"""The rendered manifests of the cluster, with which compose.yaml has to agree."""

from tests.manifests.conftest import rendered

__all__ = ["rendered"]
