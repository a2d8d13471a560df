"""`evergreen.train`: what the pipeline does from rows to an exported model, in this process, for a notebook or a script."""

import warnings
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from evergreen.api.columns import table_columns, values
from evergreen.api.model import EvergreenModel
from evergreen.api.project import find_project, private_home
from evergreen.api.settings import advice_in_keywords, read_settings
from evergreen.api.to_pipeline import TrainedOn
from pipeline.abstention import ABSTAIN_FILE
from pipeline.card.facts import CARD, card_content
from pipeline.data.records import write_json
from pipeline.errors import InputError
from pipeline.in_memory.given_rows import GivenRows, accept
from pipeline.output.plain_logs import log_plainly
from pipeline.output.plain_text import printable
from pipeline.output.progress import progress as show_progress
from pipeline.params import Data, Params
from pipeline.runtime.sessions import SESSIONS
from pipeline.stages.ingest import IngestResult
from serving.release.manifest import MANIFEST, describe_files
from serving.release.offline import FALLBACK_SESSION, NamedPackage

PARAMS = "params.yaml"
PACKED_SESSION = "packed-onnxruntime-fp32"  # where the encoder allows it; runs everywhere, like the other
STACK_LEVEL = 3  # of a warning: the line that called `train`


class ModelFolder(NamedTuple):
    """A temporary folder in the layout of a package; it exists as long as the object."""

    temporary: TemporaryDirectory[str]
    package: Path
    exported: Path


def train(
    texts: Any,
    labels: Any = None,
    *,
    groups: Any = None,
    test: Any = None,
    name: str = "notebook",
    track: bool = True,
    progress: bool = True,
    **settings: Any,
) -> EvergreenModel:
    """Fine-tune a classifier on these rows, score it beside the frozen control, and return it.

    `texts` and `labels` are columns of equal length: lists, arrays, or columns of pandas, Arrow, polars or datasets. A table
    alone is enough where its columns are named as in a file. Rows of equal value in `groups` stay on one side of the split.
    `test` is a pair of texts and labels, or a table; without it, test rows are split off. `settings` change keys of params.yaml
    for this training: `train__epochs=3` is `train.epochs`. The run is logged to the pipeline's MLflow under `name`, unless
    `track` is False. Raise `InputError` for data and settings that the pipeline would refuse.
    """
    project = find_project()
    params = at_project(read_settings(project / PARAMS, settings), project, name)
    given = as_rows(texts, labels, groups, params.data)
    tested = None if test is None else _test_rows(test, params.data)
    with advice_in_keywords():
        accepted = accept(given, tested, params)
    warn_of_rows_set_aside(accepted, len(given.texts))
    folder = new_folder()
    log_plainly()
    with advice_in_keywords(), show_progress(is_shown=progress):
        _train(accepted, params, project, folder, is_tracked=track)
    rows = TrainedOn(accepted.rows, accepted.test, settings, params, project)
    return open_trained(folder, f"trained here as {name}", rows)


def _train(accepted: IngestResult, params: Params, project: Path, folder: ModelFolder, *, is_tracked: bool) -> None:
    from pipeline.in_memory.fine_tuning import Workplace, train_and_score  # torch takes seconds to import
    from pipeline.tracking.borrowed import borrowed_mlflow

    with borrowed_mlflow() if is_tracked else nullcontext(), private_home(project) as home:
        scored = train_and_score(accepted, params, Workplace(home, project, folder.exported), is_tracked=is_tracked)
        card = card_content(scored.metrics, scored.report, accepted.report, keeps_texts=params.log.text == "keep")
        write_json(folder.package / CARD, card)
        if scored.abstain:
            write_json(folder.package / ABSTAIN_FILE, scored.abstain)
        complete(folder)


def as_rows(texts: Any, labels: Any, groups: Any, data: Data) -> GivenRows:
    """Return the rows of two columns, or of a table."""
    if labels is None:
        table = table_columns(texts, data)
        return GivenRows(*table) if groups is None else GivenRows(table.texts, table.labels, list(values(groups, "groups")))
    grouped = None if groups is None else list(values(groups, "groups"))
    return GivenRows(list(values(texts, "texts")), list(values(labels, "labels")), grouped)


def at_project(params: Params, project: Path, name: str) -> Params:
    """Return params whose data is called `name`, and whose relative files and folders are the project's."""
    if not name.strip():
        raise InputError("name", "it is empty", "name the training as you will look for it in MLflow")
    base = project / params.model.base
    model = params.model.model_copy(update={"base": str(base)}) if base.is_dir() else params.model
    data = params.data.model_copy(update={"source": Path(name)})
    abstain = params.abstain.model_copy(update={"out_of_scope": project / params.abstain.out_of_scope})
    return params.model_copy(update={"data": data, "model": model, "abstain": abstain})


def warn_of_rows_set_aside(accepted: IngestResult, rows: int) -> None:
    """Warn the caller of rows that are not trained on, with the first reason."""
    if accepted.quarantined:
        first = accepted.quarantined[0]
        text = f"{len(accepted.quarantined)} of {rows} rows are set aside; {first.place}: {first.reason}"
        warnings.warn(printable(text), UserWarning, stacklevel=STACK_LEVEL)


def new_folder() -> ModelFolder:
    """Return a new folder for a model, readable by this user alone."""
    temporary = TemporaryDirectory(prefix="evergreen-")
    package = Path(temporary.name) / "model"
    exported = package / "1"
    exported.mkdir(parents=True)
    return ModelFolder(temporary, package, exported)


def complete(folder: ModelFolder) -> None:
    """Name the session of the exported model, and write the manifest last."""
    is_packed = (folder.exported / SESSIONS[PACKED_SESSION].graph).is_file()
    write_json(folder.package / "session.json", {"session": PACKED_SESSION if is_packed else FALLBACK_SESSION})
    write_json(folder.package / MANIFEST, describe_files(folder.package))


def open_trained(folder: ModelFolder, title: str, trained_on: TrainedOn | None = None) -> EvergreenModel:
    """Return the model of a completed folder, which lives as long as the model."""
    model = EvergreenModel(NamedPackage(title, folder.package, None), trained_on=trained_on)
    model.keep(folder.temporary)
    return model


def _test_rows(test: Any, data: Data) -> GivenRows:
    if isinstance(test, tuple) and len(test) == 2:
        return as_rows(*test, None, data)
    return as_rows(test, None, None, data)
