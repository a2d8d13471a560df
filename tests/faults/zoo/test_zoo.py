"""A few animals of the zoo, each stopped at another place, and an identical model, which is released."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.params import Params
from tests.conftest import Project
from tests.faults import drill
from tests.faults.scorecard import broken, write
from tests.faults.zoo import drill as zoo_drill
from tests.faults.zoo.changed_package import Original
from tests.faults.zoo.drill import Catalogue, Tried, outcome_of
from tests.faults.zoo.habitat import Habitat
from tests.faults.zoo.mutants import zoo
from tests.faults.zoo.replays import replay_shadow
from tests.faults.zoo.trial import Ending, Where

FEW = {"margin": 0.1, "min_pairs": 40, "step_answers": 20, "labels": 60}  # for a verdict on a few dozen texts
STOPPED: dict[str, Where] = {
    "nan_rare_weights": "gate",
    "alone_only": "load check",
    "wrong_live": "shadow",
    "identical": "released",
}
PLACES = ("gate", "load check", "shadow", "canary")


def with_few(params: Params) -> Params:
    return params.model_copy(update={"release": params.release.model_copy(update=FEW)})


def test_bad_models_are_stopped_and_an_identical_one_is_released(made: Project, tmp_path: Path) -> None:
    outcome, catalogue = zoo_drill.run(
        made / "artifacts", made / "dvc.lock", with_few(made.params), tmp_path, [].append, texts=500, names=list(STOPPED)
    )
    assert {mutant.name: ending.where for mutant, ending in catalogue.tried} == STOPPED, outcome.notes
    assert broken(outcome.promises) == []
    costs = {mutant.name: ending for mutant, ending in catalogue.tried}
    assert costs["nan_rare_weights"].why.startswith("weights are no numbers in")
    assert costs["wrong_live"].harmed == 0
    assert 0 < costs["wrong_live"].labels <= FEW["labels"]
    assert costs["identical"].labels == 0
    assert costs["identical"].answered >= 2 * FEW["step_answers"]


def test_the_names_of_the_animals_differ_and_two_of_them_are_good() -> None:
    animals = zoo()
    assert len({mutant.name for mutant in animals}) == len(animals)
    assert sum(mutant.is_good for mutant in animals) == 2
    assert len(animals) >= 22


@pytest.mark.parametrize(
    ("endings", "promise"),
    [
        ({"slow": "released"}, "bad models refused or rolled back"),
        ({"slow": "no verdict"}, "bad models refused or rolled back"),
        ({"identical": "shadow"}, "good models refused or rolled back"),
    ],
)
def test_the_zoo_is_judged(endings: dict[str, Where], promise: str) -> None:
    where = dict(zip([mutant.name for mutant in zoo()], ["released", "released", *PLACES * 20], strict=False)) | endings
    tried = [Tried(mutant, Ending(where[mutant.name], "by hand", "by hand")) for mutant in zoo()]
    assert broken(outcome_of(tried).promises) == [promise]


def test_replays_show_whether_one_release_was_luck(params: Params) -> None:
    rng, count = np.random.default_rng(1), 1000
    truth = rng.integers(3, size=count)
    logits = (np.eye(3)[truth] + rng.normal(scale=0.4, size=(count, 3))).astype(np.float32)
    sketch = rng.normal(size=(count, 4)).astype(np.float32)
    habitat = Habitat(Original(Path("none")), [], logits, sketch, truth, [], ())
    direction = rng.normal(size=(4, 3)).astype(np.float32)
    noise = habitat.worse_by(5, lambda strength: habitat.unchanged._replace(noise=np.float32(strength) * direction))
    worse, same = (replay_shadow(habitat, head, params.release, 40) for head in (noise, habitat.unchanged))
    assert worse.points == pytest.approx(-5.0, abs=0.2)
    assert worse.refused == 1.0
    assert 0 < worse.median_labels <= params.release.labels
    assert same == (0.0, 0.0, 0.0, 0.0)


def test_the_report_names_each_animal_and_what_it_has_cost(tmp_path: Path) -> None:
    tried = [Tried(mutant, Ending("canary", "latency", "slow", 300, 120, 7, 80, 9.0)) for mutant in zoo() if not mutant.is_good]
    outcome, catalogue = outcome_of(tried), Catalogue(tried)
    report = json.loads(write(outcome, catalogue.rows(), tmp_path).read_text())
    assert report["kept"]
    assert [row["name"] for row in report["seconds"]] == [mutant.name for mutant, _ in tried]
    assert report["seconds"][0] | {"harmed": 80, "labels": 7} == report["seconds"][0]
    catalogue.draw(tmp_path / "zoo.png")
    with Image.open(tmp_path / "zoo.png") as picture:
        assert picture.size[0] > 1000
    assert "zoo" in drill.DRILLS
