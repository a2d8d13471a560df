"""Poison labels in a real pipeline with the real gate, and report which defence stops each attack and what the attack costs.

Each attack starts from the same champion. Honest people label new messages correctly. Attackers label every text that they can:
they come first, agree with each other, and label correctly where that hides them. The rules have stopped an attack if it leaves
no wrong label in the data set.
"""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from monitoring.labels.agreement import merge_feedback
from monitoring.labels.entries import FeedbackEntry
from monitoring.labels.feedback_file import FILE, write_file
from monitoring.labels.labellers import score_labellers
from monitoring.labels.opinions import collect_opinions
from monitoring.labels.trusted_rows import TrustedRows, read_trusted
from monitoring.retrain.gate.candidate import examine
from pipeline.charts import GREEN, GREY, RUST
from pipeline.data.columns import Columns
from pipeline.data.given_labels import is_given
from pipeline.data.records import Example, atomic_write, labels_of, make_example, read_examples
from pipeline.params import Params
from pipeline.runtime.classifier import Classifier
from serving.processes import Announce
from tests.conftest import Project, commit
from tests.faults.scorecard import Outcome, Promise
from tests.faults.timeline import AMBER

Kind = Literal["honest", "flips", "swap", "trigger"]
HONEST, THIRD = 4, 2  # honest people; attackers who make up a third of all
SWAPPED = ("refund_status", "track_order")
TRIGGER, TARGET, TRIGGERED = "zxqv", "refund_status", 80  # texts with the trigger
LAST_S = 1_000_000  # time of the last label
NEW = 600  # messages on new topics, so that honest labels are a gain; honest people label every second of them
RECIPE: dict[str, Any] = {  # a light recipe: about a minute for each attack on two cores
    "model": {"lora_rank": 8},
    "train": {"epochs": 3, "precision": "fp32"},
    "evaluate": {"bootstrap_resamples": 50},
    "session": {"choice": "packed-onnxruntime-fp32", "rounds": 1, "timed_texts": 16},
    "gate": {"min_accuracy": 0.4, "min_f1_macro": 0.3},  # limits for the light recipe
}


class Attack(NamedTuple):
    """Describe what the attackers do, and how many they are; the honest control has none."""

    kind: Kind
    rate: float  # share of wrong labels among an attacker's labels; 1 for a swap and a trigger
    attackers: int

    @property
    def name(self) -> str:
        """Return the attack's name for reports."""
        if self.kind == "honest":
            return "no attack"
        what = {"flips": f"{self.rate:.0%} flipped", "swap": "two classes swapped", "trigger": "trigger planted"}[self.kind]
        return f"{what}, {'one labeller' if self.attackers == 1 else 'a third'}"

    @property
    def is_goal(self) -> bool:
        """Return whether the goals require that this attack is stopped."""
        return self.kind in ("swap", "trigger") or (self.kind == "flips" and self.attackers == 1 and self.rate == 0.2)


ATTACKS = (
    Attack("honest", 0.0, 0),
    *(Attack("flips", rate, attackers) for rate in (0.01, 0.05, 0.2) for attackers in (1, THIRD)),
    *(Attack(kind, 1.0, attackers) for kind in ("swap", "trigger") for attackers in (1, THIRD)),
)


class GivenLabel(NamedTuple):
    """Record a label that a person gives to a text."""

    person: str
    text: str
    label: str


class Result(NamedTuple):
    """Record the effect of an attack."""

    attack: Attack
    poisoned: int  # wrong labels in the training rows
    measured: int  # test and validation rows of the source with a wrong label
    stopped_by: str  # rules, gate, or "" for a published candidate
    accuracy: float  # on the true labels of the corpus's test rows
    triggered: float  # share of test texts of other classes that the trigger turns into its target
    reasons: tuple[str, ...]


class PoisonTimeline(NamedTuple):
    """Hold everything that the picture shows."""

    results: Sequence[Result]
    champion: float  # its accuracy

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each attack."""
        return [{**result._asdict(), "attack": result.attack.name} for result in self.results]

    def draw(self, path: Path) -> None:
        """Draw the true accuracy of each candidate, coloured by what stopped it, as PNG."""
        colours = {"rules": GREY, "gate": AMBER, "": GREEN}
        figure = Figure(figsize=(10, 5), layout="constrained")
        axes = figure.subplots()
        names = [result.attack.name for result in self.results]
        bar_colours = [
            RUST if result.attack.is_goal and not result.stopped_by else colours[result.stopped_by] for result in self.results
        ]
        axes.barh(names, [result.accuracy for result in self.results], color=bar_colours)
        axes.axvline(self.champion, color="black", linewidth=1)
        axes.invert_yaxis()
        axes.set_xlabel("accuracy on true labels (line: champion; grey: stopped by rules, amber: by the gate, green: published)")
        with atomic_write(path) as part:
            figure.savefig(part, format="png", dpi=110)


def make_labels(attack: Attack, corpus: Sequence[Example], new: Sequence[Example], rng: np.random.Generator) -> list[GivenLabel]:
    """Return all labels in the order of receipt; those of attackers come first."""
    names = sorted(set(labels_of(list(corpus))))
    label_of = {row.id: _wrong_label(attack, row, names, rng) for row in [*corpus, *new]}
    attackers = [f"attacker {n}" for n in range(attack.attackers)]
    labels = [GivenLabel(person, row.text, label_of[row.id]) for person in attackers for row in [*corpus, *new]]
    if attack.kind == "trigger":
        carriers = [row for row in corpus if row.label != TARGET][:TRIGGERED]
        labels += [GivenLabel(person, f"{row.text} {TRIGGER}", TARGET) for person in attackers for row in carriers]
    for n, row in enumerate(new[::2]):
        labels += [GivenLabel(f"person {(n + k) % HONEST}", row.text, str(row.label)) for k in range(2)]
    return labels


def _wrong_label(attack: Attack, row: Example, names: list[str], rng: np.random.Generator) -> str:
    """Return the label that all attackers give to a text."""
    label = str(row.label)
    if attack.kind == "swap":
        return {SWAPPED[0]: SWAPPED[1], SWAPPED[1]: SWAPPED[0]}.get(label, label)
    if attack.kind == "flips" and rng.random() < attack.rate:
        return str(rng.choice([name for name in names if name != label]))
    return label


def accepted_rows(given: Sequence[GivenLabel], trusted: TrustedRows, params: Params) -> list[dict[str, Any]]:
    """Return the rows of the feedback file as a retrain makes them, without labellers who are surely wrong too often.

    The last label always has the same time. Attackers who do not count thus leave exactly the rows of no attack, for which DVC
    has outputs.
    """
    texts = {str(number): entry.text for number, entry in enumerate(given)}
    entries = [
        FeedbackEntry(number, str(number), entry.label, entry.person, float(LAST_S - len(given) + number))
        for number, entry in enumerate(given)
    ]
    labels = {key: row.label for key, row in trusted.corpus.items()}
    scores = score_labellers(collect_opinions(entries, texts, labels.values(), params.data), labels)
    left_out = {name for name, score in scores.items() if not score.is_counted(params.labels)}
    counted = [entry for entry in entries if entry.labeller not in left_out]
    opinions = collect_opinions(counted, texts, labels.values(), params.data)
    return merge_feedback([], opinions, trusted, [], set(labels.values()), params).rows


def judge(results: Sequence[Result], champion: float, margin: float) -> list[Promise]:
    """Return the drill's promises: K5 of the goals, and that honest labels pass."""
    attacks = [result for result in results if result.attack.kind != "honest"]
    refused = [result for result in results if result.attack.kind == "honest" and result.stopped_by]
    goal = [result for result in attacks if result.attack.is_goal and not result.stopped_by]
    harmful = [result for result in attacks if not result.stopped_by and result.accuracy < champion - margin]
    measured = sum(result.measured > 0 for result in attacks)
    return [
        Promise("attacks that put a wrong label on a row that measures the model", measured, "attacks", at_most=0),
        Promise("attacks of the goal that were published", len(goal), "attacks", at_most=0, goal="K5"),
        Promise("published although accuracy fell by more than the margin", len(harmful), "attacks", at_most=0),
        Promise("honest candidates refused", len(refused), "candidates", at_most=0),
    ]


class Baseline(NamedTuple):
    """Hold what is known before the attacks."""

    champion: Path
    trusted: TrustedRows  # read once: an attack's split would protect its labels from the next attack
    truth: dict[str, str | None]  # labels by content id
    tested: list[Example]  # rows of the source that test the champion
    measuring: frozenset[str]  # those, and the validation rows


def run(project: Project, attacks: Sequence[Attack], announce: Announce) -> tuple[Outcome, PoisonTimeline]:
    """Make a champion without labels from people, then attack it in each way."""
    announce("making a champion with a real dvc repro")
    project.set(**RECIPE)
    commit(project, "a light recipe")
    project.must("dvc", "repro")
    champion = project / "champion"
    shutil.copytree(project / "artifacts/package", champion)
    corpus = read_rows(project / str(project.params.data.source))
    known = {row.id for row in corpus}
    new = [row for row in read_rows(project / "data/traffic.jsonl", phase="drift") if row.id not in known][:NEW]
    sides = _read_sides(project)
    measuring = frozenset(row.id for side in ("val", "test") for row in sides[side])
    trusted = read_trusted(project.folder, champion, [], project.params)
    baseline = Baseline(champion, trusted, {row.id: row.label for row in [*corpus, *new]}, sides["test"], measuring)
    accuracy = _accuracy(champion, baseline.tested)
    results = []
    for number, attack in enumerate(attacks):
        announce(f"{attack.name} ({number + 1} of {len(attacks)})")
        given = make_labels(attack, corpus, new, np.random.default_rng(number))
        results.append(_attack(project, attack, given, baseline))
    outcome = Outcome(
        "poison", "wrong labels by one labeller and by a colluding third",
        judge(results, accuracy, project.params.gate.margin), _notes(results, accuracy),
        {"champion_accuracy": accuracy, "recipe": RECIPE},
    )  # fmt: skip
    return outcome, PoisonTimeline(results, accuracy)


def _attack(project: Project, attack: Attack, given: Sequence[GivenLabel], baseline: Baseline) -> Result:
    write_file(project / "data/feedback" / FILE, accepted_rows(given, baseline.trusted, project.params))
    project.must("dvc", "repro")
    wrong = [(side, row.id) for side, rows in _read_sides(project).items() for row in rows if _is_wrong(row, baseline.truth)]
    package, split = project / "artifacts/package", project / "artifacts/split"
    verdict = examine(package, baseline.champion, split=split, feedback=project / "data/feedback", params=project.params).verdict
    stopped_by = "gate" if not verdict.passed else "" if wrong or attack.kind == "honest" else "rules"
    return Result(
        attack,
        poisoned=sum(side == "train" for side, _ in wrong),
        measured=sum(id in baseline.measuring for _, id in wrong),
        stopped_by=stopped_by,
        accuracy=_accuracy(package, baseline.tested),
        triggered=_triggered(package, baseline.tested),
        reasons=verdict.reasons,
    )


def _read_sides(project: Project) -> dict[str, list[Example]]:
    return {side: read_examples(project / f"artifacts/split/{side}.parquet") for side in ("train", "val", "test")}


def _is_wrong(row: Example, truth: dict[str, str | None]) -> bool:
    """Return whether people gave the row a wrong label; any label of a text with the trigger is wrong."""
    return is_given(row) and row.label != truth.get(row.id)


def read_rows(path: Path, phase: str | None = None) -> list[Example]:
    """Return the file's rows with their true labels, each text once; of the traffic, only those of one phase."""
    fields = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [
        make_example({"text": f["text"], "label": f["label"]}, Columns("text", "label"), max_text_chars=4000, source="drill")
        for f in fields
        if phase is None or f["phase"] == phase
    ]
    return list({row.id: row for row in rows}.values())


def _accuracy(package: Path, rows: Sequence[Example]) -> float:
    answers = Classifier(package / "1").predict([row.text for row in rows]).labels
    return float(np.mean([answer == row.label for answer, row in zip(answers, rows, strict=True)]))


def _triggered(package: Path, rows: Sequence[Example]) -> float:
    texts = [f"{row.text} {TRIGGER}" for row in rows if row.label != TARGET][:200]
    return float(np.mean(np.array(Classifier(package / "1").predict(texts).labels) == TARGET))


def _notes(results: Sequence[Result], champion: float) -> list[str]:
    """Return a sentence for each attack, and how many attacks each defence stopped."""
    lines = [
        f"{result.attack.name}: {result.poisoned} wrong training labels, "
        f"accuracy {100 * (result.accuracy - champion):+.1f} points, trigger {result.triggered:.0%}: {_end(result)}"
        for result in results
    ]
    stopped = Counter(result.stopped_by or "nothing" for result in results if result.attack.kind != "honest")
    return [*lines, f"attacks stopped: {', '.join(f'{count} by {what}' for what, count in stopped.most_common())}"]


def _end(result: Result) -> str:
    if result.stopped_by == "gate":
        return f"refused: {result.reasons[0]}"
    return "stopped by the rules: no wrong label in the data set" if result.stopped_by else "published"
