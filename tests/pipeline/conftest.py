"""Fixtures of the tests of later stages: the small project's model and rows, read only."""

import pytest

from pipeline.data.records import Example, read_examples
from pipeline.network.trained_model import TrainedModel, load_trained
from tests.conftest import Project


@pytest.fixture(scope="session")
def trained(made: Project) -> TrainedModel:
    return load_trained(made / "artifacts/model", made.params.model)


@pytest.fixture(scope="session")
def sides(made: Project) -> dict[str, list[Example]]:
    return {side: read_examples(made / f"artifacts/split/{side}.parquet") for side in ("train", "val", "test")}
