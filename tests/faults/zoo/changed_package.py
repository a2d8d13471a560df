"""Make a package from another one: changed graphs, tokenizer, card or backend, with everything else made to match again.

A mutant of the zoo is as whole as a model that `dvc repro` made: its digests, golden answers and reference are its own. What does
not match is its fault.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from pipeline.data.records import Example, labels_of, read_examples, read_json, write_json
from pipeline.reference_profile import load_corrupted, load_reference, save_reference
from pipeline.runtime.classifier import Classifier
from pipeline.runtime.model_files import model_digest
from pipeline.session.golden_answers import read_golden, write_golden
from serving.release.manifest import LINEAGE, MANIFEST, SIGNATURE
from tests.faults.stack import classifier, with_manifest
from tests.faults.zoo import live_fault

Floats = NDArray[np.float32]


class Original(NamedTuple):
    """What `dvc repro` has made: the package, and the folders that the gate reads beside it."""

    artifacts: Path

    @property
    def package(self) -> Path:
        return self.artifacts / "package"

    @property
    def labels(self) -> list[str]:
        """Return the labels in the order of the probabilities."""
        labels: list[str] = read_json(self.package / "1" / "model.json", "the packaged model")["labels"]
        return labels

    @property
    def test_rows(self) -> list[Example]:
        return read_examples(self.artifacts / "split" / "test.parquet")

    def open(self) -> Classifier:
        """Open the packaged model as the gate does."""
        return classifier(self.package, read_golden(self.package).session)


class Head(NamedTuple):
    """A change of a graph's outputs for C classes and sketches of width S: logits · mixing + sketch · noise + bias."""

    mixing: Floats  # (C, C)
    noise: Floats  # (S, C)
    bias: Floats  # (C,)

    def apply(self, logits: Floats, sketch: Floats) -> Floats:
        """Return the changed logits, (N, C)."""
        changed: Floats = logits @ self.mixing + sketch @ self.noise + self.bias
        return changed


def same_head(classes: int, sketch_size: int) -> Head:
    """Return the head that changes nothing."""
    eye, noise = np.eye(classes, dtype=np.float32), np.zeros((sketch_size, classes), dtype=np.float32)
    return Head(eye, noise, np.zeros(classes, dtype=np.float32))


def begin(original: Original, folder: Path) -> Path:
    """Copy the original's package and scores into the mutant's folder; return the copied package."""
    package = folder / "package"
    ignored = shutil.ignore_patterns(LINEAGE, MANIFEST, SIGNATURE)
    shutil.copytree(original.package, package, ignore=ignored)
    shutil.copytree(original.artifacts / "evaluation", folder / "evaluation")
    (folder / "split").symlink_to((original.artifacts / "split").resolve())
    with (package / "1" / "model.py").open("a", encoding="utf-8") as backend:
        backend.write(f"# {folder.name}\n")  # no two packages are equal
    return package


def finish(package: Path, *, is_evaluated: bool = True, is_profiled: bool = True, has_golden: bool = True) -> Path:
    """Make digests and manifest match the files, and by default scores, reference and golden answers too."""
    config = (package / "config.pbtxt").read_text(encoding="utf-8")
    digest = read_config_digest(config)
    (package / "config.pbtxt").write_text(config.replace(digest, model_digest(package / "1")), encoding="utf-8")
    golden = read_golden(package)
    model = classifier(package, golden.session)
    if has_golden:
        answers = model.predict(golden.texts)
        write_golden(golden._replace(labels=answers.labels, probabilities=answers.probabilities), package)
    rows = read_examples(package.parent / "split" / "test.parquet")
    truth = np.array(labels_of(rows), dtype=np.str_)
    answers = model.predict([row.text for row in rows])
    if is_profiled:
        _profile(package / "reference.npz", answers.probabilities, model.labels, truth)
    if is_evaluated:
        path = package.parent / "evaluation" / "metrics.json"
        scores = read_json(path, "the scores")
        scores["test"]["accuracy"] = float((np.array(answers.labels) == truth).mean())
        write_json(path, scores)
    return with_manifest(package)


def _profile(path: Path, probabilities: Floats, labels: Sequence[str], truth: NDArray[np.str_]) -> None:
    """Write the reference with these answers to the test rows, which are its rows."""
    old = load_reference(path)
    predicted = np.array(labels)[probabilities.argmax(axis=1)]
    new = old._replace(probabilities=probabilities, labels=np.array(labels), correct=predicted == truth)
    save_reference(path, new, load_corrupted(path), truth)


def read_config_digest(config: str) -> str:
    """Return the model's digest that config.pbtxt states."""
    return config.split('key: "model_digest"', 1)[1].split('string_value: "', 1)[1].split('"', 1)[0]


def change_head(package: Path, head: Head) -> None:
    """Change the outputs of every graph in the package."""
    for path in sorted((package / "1").glob("*.onnx")):
        model = onnx.load(path)
        for node in model.graph.node:
            for number, name in enumerate(node.output):
                if name == "logits":
                    node.output[number] = "healthy_logits"
        constants = {"mutant_mixing": head.mixing, "mutant_noise": head.noise, "mutant_bias": head.bias}
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
        model.graph.node.extend(
            [
                helper.make_node("MatMul", ["healthy_logits", "mutant_mixing"], ["mutant_mixed"]),
                helper.make_node("MatMul", ["sketch", "mutant_noise"], ["mutant_noised"]),
                helper.make_node("Add", ["mutant_mixed", "mutant_noised"], ["mutant_sum"]),
                helper.make_node("Add", ["mutant_sum", "mutant_bias"], ["logits"]),
            ]
        )
        onnx.save(model, path)


def change_card(package: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change model.json: labels, temperature, the length that the tokenizer keeps."""
    path = package / "1" / "model.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    change(card)
    path.write_text(json.dumps(card), encoding="utf-8")


def spoil_vocabulary(package: Path, rng: np.random.Generator) -> None:
    """Give every piece of the tokenizer another number, but for the special ones at its beginning."""
    path = package / "1" / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    words = [piece for piece in vocabulary if not piece.startswith("[")]
    numbers = rng.permutation([vocabulary[piece] for piece in words]).tolist()
    vocabulary.update(zip(words, numbers, strict=True))
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


def spoil_unused_weights(package: Path, pieces: Sequence[int]) -> None:
    """Put NaN into the embeddings of these pieces."""
    for path in sorted((package / "1").glob("*.onnx")):
        model = onnx.load(path)
        table = max((each for each in model.graph.initializer if len(each.dims) == 2), key=lambda each: each.dims[0])
        values = numpy_helper.to_array(table).copy()
        values[list(pieces)] = np.nan
        table.CopyFrom(numpy_helper.from_array(values, table.name))
        onnx.save(model, path)


def add_live_fault(package: Path, fault: str, **arguments: object) -> None:
    """Let the backend answer with a fault of `live_fault`."""
    version = package / "1"
    shutil.copy(live_fault.__file__, version / "live_fault.py")
    write_json(version / live_fault.FAULT_FILE, {"fault": fault, **arguments})
    with (version / "model.py").open("a", encoding="utf-8") as backend:
        backend.write(live_fault.WIRING)
