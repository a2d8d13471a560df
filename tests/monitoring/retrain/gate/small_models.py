"""Small real models for the gate: words to intents by logistic regression, exported to ONNX and packaged as the pipeline does."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from pipeline.data.columns import Columns
from pipeline.data.records import Example, labels_of, make_example, write_examples, write_json
from pipeline.data.split_sides import side_of
from pipeline.params import Split
from pipeline.reference_profile import Reference, save_reference
from pipeline.runtime.classifier import Classifier
from serving.release.manifest import MANIFEST, describe_files
from tests.conftest import ROOT

SKETCH = 4


class Rows(NamedTuple):
    """Rows by side of the split; `new` rows come from the drifted traffic."""

    train: list[Example]
    test: list[Example]
    new_train: list[Example]
    new_test: list[Example]


class Model(NamedTuple):
    """Weights (words, classes) and bias (classes,) of a bag of words."""

    words: list[str]
    labels: list[str]
    weights: np.ndarray
    bias: np.ndarray


def load_rows(settings: Split, drifted: int = 300) -> Rows:
    """Return the shipped corpus and the first drifted messages of the traffic, split by content."""
    corpus = _examples(ROOT / "data/support_desk.jsonl", lambda _: True)
    known = {row.id for row in corpus}
    traffic = _examples(ROOT / "data/traffic.jsonl", lambda fields: fields["phase"] == "drift")[:drifted]
    sides: dict[str, list[Example]] = {}
    for prefix, examples in (("", corpus), ("new_", [row for row in traffic if row.id not in known])):
        for row in examples:
            side = side_of(row, settings.seed, val_share=settings.val_share, test_share=settings.test_share)
            sides.setdefault(prefix + side, []).append(row)
    return Rows(sides["train"], sides["test"], sides["new_train"], sides["new_test"])


def fit(examples: Sequence[Example], labels: Sequence[str] | None = None) -> Model:
    """Fit logistic regression on word shares; `labels` replace those of the examples."""
    truth = list(labels or labels_of(list(examples)))
    counts = Counter(word for row in examples for word in _words(row.text))
    words = ["[unknown]", *sorted(word for word, count in counts.items() if count > 1)]
    index = {word: i for i, word in enumerate(words)}
    bags = [np.array([index.get(word, 0) for word in _words(row.text)]) for row in examples]
    lines = np.repeat(np.arange(len(bags)), [len(bag) for bag in bags])
    shares = np.concatenate([np.full(len(bag), 1 / len(bag)) for bag in bags])
    matrix = sparse.csr_matrix((shares, (lines, np.concatenate(bags))), shape=(len(bags), len(words)))
    fitted = LogisticRegression(C=300, max_iter=300, tol=1e-3).fit(matrix, truth)
    return Model(words, fitted.classes_.tolist(), fitted.coef_.T.astype(np.float32), fitted.intercept_.astype(np.float32))


def write_package(model: Model, folder: Path, known: Sequence[Example] = (), *, is_old: bool = False) -> Path:
    """Write the files of a package that the gate reads; `known` rows are those of its reference.

    A package of an old release does not hold their labels.
    """
    version = folder / "1"
    version.mkdir(parents=True)
    onnx.save(_graph(model), str(version / "model.onnx"))
    _tokenizer(model.words).save(str(version / "tokenizer.json"))
    card = {"labels": model.labels, "temperature": 1.0, "max_pieces": 128, "origin": {"mlflow_run_id": None}}
    write_json(version / "model.json", card)
    write_json(folder / "session.json", {"session": "onnxruntime-fp32"})
    truth = None if is_old else np.array(labels_of(list(known)), dtype=np.str_)
    reference = _reference(model, known)
    if known and not is_old:
        reference = reference._replace(probabilities=Classifier(version).predict([row.text for row in known]).probabilities)
    save_reference(folder / "reference.npz", reference, truth=truth)
    return write_manifest(folder)


def write_manifest(folder: Path) -> Path:
    """Write the manifest of the files that are there now."""
    write_json(folder / MANIFEST, describe_files(folder))
    return folder


def write_evaluation(
    folder: Path, test: list[Example], *, accuracy: float, control: float = 0.3, train: Sequence[Example] = ()
) -> Path:
    """Write `artifacts/split` with the current test and training rows, and the scores of stage evaluate next to it."""
    write_examples(folder / "split" / "train.parquet", list(train))
    write_examples(folder / "split" / "test.parquet", test)
    write_json(folder / "evaluation" / "metrics.json", {"test": {"accuracy": accuracy}, "control": {"accuracy": control}})
    return folder / "split"


def _examples(path: Path, wanted: Callable[[dict[str, str]], bool]) -> list[Example]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    fields = [{"text": row["text"], "label": row["label"]} for row in rows if wanted(row)]
    return [make_example(row, Columns("text", "label"), max_text_chars=4000, source="test") for row in fields]


def _words(text: str) -> list[str]:
    return [word for word, _ in _SPLIT.pre_tokenize_str(_LOWER.normalize_str(text))]


def _tokenizer(words: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[unknown]"))  # noqa: S106 (a word)
    tokenizer.normalizer, tokenizer.pre_tokenizer = _LOWER, _SPLIT
    return tokenizer


def _graph(model: Model) -> onnx.ModelProto:
    """Map `input_ids` and `attention_mask`, (B, T), to `logits` and `sketch`: the mean of the words' weights."""
    table = np.concatenate([model.weights, np.zeros((len(model.words), SKETCH), np.float32)], axis=1)
    bias = np.concatenate([model.bias, np.zeros(SKETCH, np.float32)])
    split = np.array([len(model.labels), SKETCH], dtype=np.int64)
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Gather", ["table", "input_ids"], ["each"]),
        helper.make_node("Mul", ["each", "column"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "one"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "one"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("Add", ["mean", "bias"], ["both"]),
        helper.make_node("Split", ["both", "split"], ["logits", "sketch"], axis=1),
    ]
    constants = {"table": table, "bias": bias, "split": split, "one": np.array([1]), "last": np.array([2])}
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"]) for name in ("input_ids", "attention_mask")]
    widths = (("logits", len(model.labels)), ("sketch", SKETCH))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", width]) for name, width in widths]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "words", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _reference(model: Model, known: Sequence[Example]) -> Reference:
    count = len(known)
    predicted = [model.labels.index(str(row.label)) for row in known]  # the champion is right on all rows but the first
    return Reference(
        ids=np.array([row.id for row in known], dtype=np.str_),
        labels=np.array(model.labels),
        probabilities=np.eye(len(model.labels), dtype=np.float32)[predicted],
        sketch=np.zeros((count, SKETCH), np.float16),
        pieces=np.ones(count, np.int32),
        pieces_per_word=np.ones(count, np.float32),
        correct=np.arange(count) > 0,
        calibrate=np.ones(count, dtype=np.bool_),
    )


_LOWER, _SPLIT = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
