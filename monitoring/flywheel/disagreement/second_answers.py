"""Second answers to texts, by models of this machine: the frozen control of a version, and the version itself in fp32.

Both need what a trainer has (torch or ONNX Runtime, and the base encoder). Where that is missing there is no second answer, and
the log says why.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from monitoring.flywheel.disagreement.excess import DifferenceCounts
from monitoring.flywheel.disagreement.pairs import LoggedAnswer
from monitoring.flywheel.disagreement.task import ModelAnswer
from pipeline.card.frozen_control import FrozenControl, load_control
from pipeline.errors import EvergreenError
from pipeline.params import Params
from pipeline.row_predictions import referenced_predictions
from serving.release.signature import signed_folder

FP32 = ("packed-onnxruntime-fp32", "onnxruntime-fp32")  # the first that the package has a graph for
log = structlog.get_logger()

Asked = Callable[[list[str]], list[ModelAnswer]]


def find_control(home: Path, version: int) -> FrozenControl | None:
    """Return the control of a version; None without one, and where its folder is not what was signed."""
    try:
        control = load_control(signed_folder(version, home))
    except (EvergreenError, OSError) as error:
        log.warning("no frozen control", version=version, error=str(error)[:500])
        return None
    if control is None:
        log.info("no frozen control", version=version, reason="published by an earlier release; the next retrain brings one")
    return control


def ask(what: str, model: Asked, rows: Sequence[LoggedAnswer]) -> dict[str, ModelAnswer]:
    """Return the model's answers by hash of the text; empty where it cannot answer here. Rows without a text are left out."""
    texts = {row.text_hash: row.text for row in rows if row.text is not None}
    if not texts:
        return {}
    try:
        return dict(zip(texts, model(list(texts.values())), strict=True))
    except Exception as error:  # an engine that cannot run here may raise anything
        log.warning("no second answers", model=what, error=f"{type(error).__name__}: {error}"[:500])
        return {}


def control_model(control: FrozenControl, params: Params) -> Asked:
    """Return the control as a function of texts. The base is the version's, verified by its SHA-256."""
    same_base = {name: getattr(control, name) for name in ("base", "revision", "weights_sha256", "max_pieces")}

    def answer(texts: list[str]) -> list[ModelAnswer]:
        from pipeline.network.frozen_encoder import frozen_embeddings  # torch

        embeddings = frozen_embeddings(texts, params.model.model_copy(update=same_base), params.evaluate.batch_size)
        probabilities = control.probabilities(embeddings)
        return _answers(control.labels[probabilities.argmax(axis=1)].tolist(), probabilities)

    return answer


def fp32_model(folder: Path) -> Asked:
    """Return the packaged model in fp32 as a function of texts, whatever session it is served with."""

    def answer(texts: list[str]) -> list[ModelAnswer]:
        from pipeline.runtime.classifier import Classifier  # ONNX Runtime
        from pipeline.runtime.sessions import SESSIONS, open_session

        name = next((name for name in FP32 if (folder / "1" / SESSIONS[name].graph).is_file()), FP32[-1])
        outputs = Classifier(folder / "1", session=open_session(folder / "1", name, 1)).predict(texts)
        return _answers(outputs.labels, outputs.probabilities)

    return answer


def control_on_reference(folder: Path, control: FrozenControl) -> DifferenceCounts:
    """Compare champion and control on the rows of the champion's reference."""
    return _compare(_referenced(folder), dict(zip(control.test_ids.tolist(), control.test_labels.tolist(), strict=True)))


def versions_on_reference(first: Path, second: Path) -> DifferenceCounts:
    """Compare two versions on the rows that are in both references; no rows where a reference cannot be read."""
    return _compare(_referenced(first), _referenced(second))


def _referenced(folder: Path) -> dict[str, str]:
    try:
        return {row.id: row.predicted for row in referenced_predictions(folder / "reference.npz")}
    except (OSError, ValueError, KeyError) as error:
        log.warning("no reference", folder=str(folder), error=str(error)[:300])
        return {}


def _compare(first: Mapping[str, str], second: Mapping[str, str]) -> DifferenceCounts:
    common = first.keys() & second.keys()
    return DifferenceCounts(len(common), sum(first[id] != second[id] for id in common))


def _answers(labels: Sequence[str], probabilities: NDArray[np.float32]) -> list[ModelAnswer]:
    return [ModelAnswer(label, row) for label, row in zip(labels, probabilities, strict=True)]
