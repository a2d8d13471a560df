"""A round: from the segments of the log to clusters with names and ids that stay."""

import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from monitoring.flywheel.make_round import make_round
from monitoring.flywheel.queue.round import PROPOSAL, read_round
from pipeline.errors import InputError
from pipeline.params import Params
from state.database import open_state
from state.tables import feedback
from tests.conftest import ROOT
from tests.monitoring.flywheel.worlds import CLASSES, NOW, Asked, Customers, flywheel_home, logged, working_tree, write_log
from tests.monitoring.homes import NOON


@pytest.fixture(autouse=True)
def no_second_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the second model, which needs a whole package: tests of disagreement have one."""
    monkeypatch.setattr("monitoring.flywheel.make_round.measure_disagreement", lambda *_: [])


@pytest.fixture
def customers() -> Customers:
    return Customers(3)


@pytest.fixture
def home(tmp_path: Path, customers: Customers) -> Path:
    return flywheel_home(tmp_path, customers)


@pytest.fixture
def root(tmp_path: Path, params: Params) -> Path:
    return working_tree(tmp_path, params, {f"a trusted text, number {n}": f"class_{n % CLASSES}" for n in range(40)})


def test_texts_of_an_unknown_intent_are_one_cluster_named_by_their_words(
    home: Path, root: Path, params: Params, customers: Customers
) -> None:
    intents = np.r_[customers.rng.integers(0, CLASSES, 400), np.full(20, CLASSES + 1)]
    write_log(home, logged(customers.ask(420, intents), at=NOON))
    made = make_round(home, params, NOW, root=root)
    texts = {row.text_id: row for row in made.candidates}
    unknown = [row for row in made.candidates if row.text.startswith(f"topic{CLASSES + 1} ")]
    assert len(unknown) >= 18
    clusters = {row.cluster for row in unknown}
    named = [cluster for cluster in made.clusters if cluster.id in clusters and f"topic{CLASSES + 1}" in cluster.words]
    assert named
    assert all(id in texts for cluster in made.clusters for id in cluster.central)
    assert read_round(home) == made


def asked(customers: Customers, text: str, count: int = 1) -> Asked:
    """Return texts of an unknown intent, all candidates, that read so."""
    drawn = customers.ask(count, np.full(count, CLASSES + 1))
    return drawn._replace(texts=[text.format(number) for number in range(count)])


def label(home: Path, prediction_id: str, given: str, labeller: str = "ann") -> None:
    row = {"prediction_id": prediction_id, "label": given, "kind": "label", "labeller": labeller, "version": 1}
    with open_state(home) as engine, engine.begin() as connection:
        connection.execute(feedback.insert().values(row | {"received_at": datetime.now(UTC)}))


def test_what_is_labelled_or_protected_is_no_candidate_and_a_proposed_label_is_a_reason(
    tmp_path: Path, home: Path, params: Params, customers: Customers
) -> None:
    root = working_tree(tmp_path, params, {"Where is my scooter?": "class_1"})
    own = [
        logged(asked(customers, text), at=NOON + at)[0] for at, text in enumerate(("where is my SCOOTER", "a helmet", "a bell"))
    ]
    write_log(home, [*logged(customers.ask(300), at=NOON + 60), *own])
    label(home, own[1].id, "class_2")
    label(home, own[2].id, "bicycle_bell")
    made = make_round(home, params, NOW, root=root)
    by_text = {row.text: row for row in made.candidates}
    assert not {own[0].text, own[1].text} & by_text.keys()
    assert PROPOSAL in by_text["a bell"].reasons


def test_equal_and_near_equal_texts_are_one_candidate_with_repeats(
    home: Path, root: Path, params: Params, customers: Customers
) -> None:
    long = "please send the invoice of my last order to the new address of the company in Rome as soon as you can, number {}"
    copies, near = asked(customers, "Same text!", 3), asked(customers, long, 40)
    write_log(home, [*logged(customers.ask(200), at=NOON), *logged(copies, at=NOON + 60), *logged(near, at=NOON + 120)])
    made = make_round(home, params, NOW, root=root)
    repeats = {row.text: row.repeats for row in made.candidates}
    assert repeats["Same text!"] == 3
    assert [count for text, count in repeats.items() if text.startswith("please send")] == [40]
    assert sum(cluster.size for cluster in made.clusters) == sum(repeats.values())


def test_answers_without_a_text_are_no_candidates_and_are_announced(
    home: Path, root: Path, params: Params, customers: Customers
) -> None:
    write_log(home, logged(customers.ask(300), at=NOON), text="hash")
    write_log(home, logged(customers.ask(50), at=NOON + 60), session="b")
    lines: list[str] = []
    made = make_round(home, params, NOW, root=root, announce=lines.append)
    assert len(made.candidates) <= 50
    assert any("300 answers are left out: log.text is hash" in line for line in lines)


def test_a_round_is_bounded_and_has_the_newest_texts(home: Path, root: Path, params: Params, customers: Customers) -> None:
    few = params.model_copy(update={"flywheel": params.flywheel.model_copy(update={"max_candidates": 30, "min_answers": 20})})
    for hour in range(3):
        write_log(home, logged(asked(customers, f"hour {hour} text {{}}", 40), at=NOON + 60 * hour), session=f"s{hour}")
    made = make_round(home, few, NOW, root=root)
    assert len(made.candidates) <= 30
    assert all(row.text.startswith("hour 2") for row in made.candidates)


def test_other_versions_and_old_answers_are_not_read_and_too_few_answers_say_so(
    home: Path, root: Path, params: Params, customers: Customers
) -> None:
    write_log(home, logged(customers.ask(300), at=NOON, version=2))
    write_log(home, logged(customers.ask(300), at=NOON - params.flywheel.reach_s - 7200), session="b")
    with pytest.raises(InputError, match=f"version 1 has given 0 answers, a round needs {params.flywheel.min_answers}"):
        make_round(home, params, NOW, root=root)
    assert read_round(home) is None


def test_a_cluster_keeps_its_id_in_the_next_round(home: Path, root: Path, params: Params, customers: Customers) -> None:
    write_log(home, logged(customers.ask(400), at=NOON))
    first = make_round(home, params, NOW, root=root)
    write_log(home, logged(customers.ask(80), at=NOON + 1800), session="b")
    second = make_round(home, params, NOW + 86_400, root=root)
    before = {row.text_id: row.cluster for row in first.candidates}
    kept = [before[row.text_id] == row.cluster for row in second.candidates if row.text_id in before]
    assert np.mean(kept) > 0.85
    fresh = {cluster.id for cluster in second.clusters} - {cluster.id for cluster in first.clusters}
    assert all(id >= first.next_cluster for id in fresh)
    assert second.next_cluster == first.next_cluster + len(fresh)


HALF_WAY = """
import os, signal, sys
from pathlib import Path
from monitoring.flywheel import make_round as job
from pipeline.params import load_params

def stop_here(*_):
    print("half way", flush=True)
    signal.pause()

job.measure_disagreement = lambda *_: []
if sys.argv[4] == "computing":
    job.order_queue = stop_here
else:
    import pyarrow.parquet as pq
    write = pq.write_table
    def half(table, part, **options):
        write(table, part, **options)
        os.truncate(part, os.path.getsize(part) // 2)
        stop_here()
    pq.write_table = half
job.make_round(Path(sys.argv[1]), load_params(Path(sys.argv[2]) / "params.yaml"), float(sys.argv[3]), root=Path(sys.argv[5]))
"""


@pytest.mark.parametrize("moment", ["computing", "writing"])
def test_a_round_killed_half_way_leaves_the_one_before_and_a_rerun_gives_the_same(
    moment: str, tmp_path: Path, home: Path, root: Path, params: Params, customers: Customers
) -> None:
    write_log(home, logged(customers.ask(300), at=NOON))
    before = make_round(home, params, NOW, root=root)
    write_log(home, logged(customers.ask(100), at=NOON + 1800), session="b")
    copied = tmp_path / "undisturbed"
    shutil.copytree(home, copied)
    expected = make_round(copied, params, NOW + 60, root=root)
    arguments = [str(home), str(ROOT), str(NOW + 60), moment, str(root)]
    with subprocess.Popen([sys.executable, "-c", HALF_WAY, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert "half way\n" in job.stdout
        job.send_signal(signal.SIGKILL)
    assert job.returncode == -signal.SIGKILL
    assert read_round(home) == before
    assert make_round(home, params, NOW + 60, root=root) == expected
    assert read_round(home) == expected
