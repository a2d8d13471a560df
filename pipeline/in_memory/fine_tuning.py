"""A training in this process: split, fine-tune, calibrate, score beside the control, export. One at a time in a process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from pipeline import metrics
from pipeline.abstention import NEVER
from pipeline.data.records import Example
from pipeline.data.split_sides import side_of
from pipeline.errors import InputError, ToolError
from pipeline.home import git, is_dirty
from pipeline.learning.fit import Prepared, fine_tune, prepare, training_inputs
from pipeline.learning.resume import Checkpoints, open_checkpoints
from pipeline.network.trained_model import TrainedModel, load_trained, save_trained
from pipeline.params import Params, flatten
from pipeline.stages import evaluate as evaluation_stage
from pipeline.stages import export as export_stage
from pipeline.stages import split as split_stage
from pipeline.stages.control import control
from pipeline.stages.ingest import IngestResult
from pipeline.stages.train import log_datasets, write_curves
from pipeline.tracking.runs import Run, stage_run

TRACKED = ("data", "split", "model", "train", "evaluate", "abstain", "export")  # sections of params.yaml that matter here
MADE_BY = "evergreen.made_by"
_training = threading.Lock()  # torch has one random state and one tracer


class Workplace(NamedTuple):
    """Where a training keeps its checkpoints, which commit it names, and the empty folder for the exported model."""

    home: Path
    project: Path
    exported: Path


class Scored(NamedTuple):
    """What a training measured on its test rows, as stage `evaluate` writes it, and its run in MLflow."""

    metrics: dict[str, dict[str, float]]
    report: dict[str, Any]
    abstain: dict[str, Any] | None  # the rule when to abstain, if there is one
    run_id: str | None


def train_and_score(accepted: IngestResult, params: Params, place: Workplace, *, is_tracked: bool) -> Scored:
    """Do what the stages from `split` to `export` do, in an MLflow run of the pipeline's experiment when tracked.

    An interrupted training with the same inputs is resumed. Raises `InputError` for rows that cannot be split.
    """
    sides = split_stage.split(accepted.rows, accepted.test, params.split)
    rows = {"train": sides.train, "val": sides.val, "test": sides.test}
    if not sides.test:
        raise InputError("the split", "no row is assigned to test", "give more rows, or raise split.test_share")
    digests = split_stage.report(sides, params.data.near_duplicate_jaccard)["digests"]
    with _alone():
        prepared = prepare(sides.train, sides.val, params)
        with (
            open_checkpoints(training_inputs(prepared, params), place.home, params.train.checkpoint_s) as checkpoints,
            _tracked_run(params, place, checkpoints, is_tracked=is_tracked) as run,
        ):
            digest = log_datasets(run, digests, rows, params.data)
            with _fitted(prepared, params, run, checkpoints, place) as trained:
                evaluated, abstain = _evaluate(trained(), rows, params, run)
                origin = {**_origin(run.id, place.project), "data_digest": digest}
                export_to(place.exported, trained(), evaluated.temperature.value, origin, params, run)
    return Scored(evaluated.metrics, evaluated.report, abstain, run.id)


def train_without_test(rows: list[Example], params: Params, place: Workplace) -> None:
    """Fine-tune on all rows but a validation share, and export; nothing is scored or tracked.

    Raises `InputError` when no row is assigned to validation.
    """
    train, val = _without_test(rows, params)
    with _alone():
        prepared = prepare(train, val, params)
        with _fitted(prepared, params, Run(None), None, place) as trained:
            outputs = evaluation_stage.held_out_outputs(
                evaluation_stage.merged(trained()), val, params.model, params.evaluate.batch_size
            )
            truth = prepared.val.targets.numpy()
            temperature = metrics.fit_temperature(outputs.logits.astype("float64"), truth).value
            export_to(place.exported, trained(), temperature, _origin(None, place.project), params, Run(None))


def export_to(folder: Path, trained: TrainedModel, temperature: float, origin: dict[str, Any], params: Params, run: Run) -> None:
    """Write the graphs behind the parity gate, tokenizer and labels."""
    exported = export_stage.export(trained, params, folder)
    export_stage.write(trained, exported, temperature, params.model, origin, folder)
    export_stage.log_parity(run, exported.padded)


def _evaluate(
    trained: TrainedModel, rows: dict[str, list[Example]], params: Params, run: Run
) -> tuple[evaluation_stage.Evaluation, dict[str, Any] | None]:
    """Return the evaluation, and the rule when to abstain; None for a model that always answers."""
    predicted = control(rows["train"], [], rows["test"], params.model, params.evaluate).predicted._asdict()
    with TemporaryDirectory(prefix="evergreen-") as folder:
        out = Path(folder) / "evaluation"  # the name of its folder in the run
        evaluated, selection = evaluation_stage.measure(evaluation_stage.merged(trained), rows, predicted, params, run, out)
    evaluation_stage.refuse_unreachable(selection, params.abstain)
    return evaluated, None if selection.report.abstention == NEVER else selection.facts()


@contextmanager
def _fitted(prepared: Prepared, params: Params, run: Run, checkpoints: Checkpoints | None, place: Workplace) -> Iterator[Any]:
    """Yield a function that loads the fine-tuned model: evaluation and export each change the one they get."""
    fitted = fine_tune(prepared, params, run, checkpoints, place.home)
    with TemporaryDirectory(prefix="evergreen-") as folder:
        model, curves = Path(folder) / "model", Path(folder) / "training"
        save_trained(model, fitted.state, prepared.labels, _origin(run.id, place.project))
        write_curves(curves, fitted, run)
        yield lambda: load_trained(model, params.model)


@contextmanager
def _tracked_run(params: Params, place: Workplace, checkpoints: Checkpoints | None, *, is_tracked: bool) -> Iterator[Run]:
    """Yield the run of this training; one without a store when it is not tracked."""
    if not is_tracked:
        yield Run(None)
        return
    tracked = {key: value for name in TRACKED for key, value in flatten(getattr(params, name), name).items()}
    continues = checkpoints.run if checkpoints else None
    with stage_run("train", tracked, place.home, continues=continues, project=place.project) as run:
        if checkpoints:
            checkpoints.run = run.id
        run.tags({MADE_BY: "evergreen.train"})
        yield run
        run.tags({"stage.evaluate": "done", "stage.export": "done"})


@contextmanager
def _alone() -> Iterator[None]:
    """Let no other thread train meanwhile, and leave torch's random state as the caller has it."""
    with _training, torch.random.fork_rng():
        yield


def _without_test(rows: list[Example], params: Params) -> tuple[list[Example], list[Example]]:
    """Return training and validation rows; a class without a training row keeps all of its rows for training."""
    settings = params.split
    val = [row for row in rows if side_of(row, settings.seed, val_share=settings.val_share, test_share=0.0) == "val"]
    held = {row.id for row in val}
    trained = {row.label for row in rows if row.id not in held}
    val = [row for row in val if row.label in trained]
    held = {row.id for row in val}
    if not val:
        raise InputError("the split", "no row is assigned to validation", "give more rows, or raise split.val_share")
    return [row for row in rows if row.id not in held], val


def _origin(run_id: str | None, project: Path) -> dict[str, Any]:
    """Return where the model comes from; without git, without a commit."""
    origin: dict[str, Any] = {"mlflow_run_id": run_id}
    with suppress(ToolError):
        origin |= {"git_commit": git("rev-parse", "HEAD", folder=project), "git_dirty": is_dirty(project)}
    return origin
