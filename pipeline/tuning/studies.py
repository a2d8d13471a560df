"""`make studies`: run every arm of every study as a DVC experiment, and write a page with table and picture for each study.

Experiments run in a separate git worktree in the home of state, on the commit that is checked out here, and leave this tree's
params, artifacts and lock file untouched. Arms measured before are not measured again; `--pages` only rewrites the pages.
"""

import argparse
import csv
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pipeline.atomic_write import atomic_write
from pipeline.errors import ToolError, run_stage
from pipeline.home import MAIN_TREE, find_home, git, main_worktree
from pipeline.lifetime import run_child
from pipeline.output.plain_text import print_line
from pipeline.params import load_params
from pipeline.tuning.study import ArmMeasurement, ArmRun, dvc_argument, expand_runs, pack_bits, read_measurements, read_study
from pipeline.tuning.study_page import write_page

FOLDER = Path("docs/studies")
MEASURED = "measured.jsonl"
ALL_ROWS = 10**9  # score all training rows too


def measure_missing(name: str, runs: Sequence[ArmRun], book: Path, measure: Callable[[str, ArmRun], ArmMeasurement]) -> None:
    """Measure the runs that the book lacks, and append each measurement at once."""
    for run in runs:
        if run.key not in read_measurements(book):
            print_line(f"{name}: {run.arm}, seed {run.seed}")
            append_measurement(measure(name, run), book)


def run_experiment(study: str, run: ArmRun, tree: Path) -> ArmMeasurement:
    """Run one experiment: ingest, split, train and evaluate, as far as DVC has not cached them."""
    git("-C", str(tree), "checkout", "--quiet", "--force", "HEAD", "--", "params.yaml")
    name = f"{study}-{run.key}"
    remove_experiment(name, tree)
    settings = [part for item in run.overrides.items() for part in ("--set-param", dvc_argument(*item))]
    settings += ["--set-param", f"evaluate.training_rows={ALL_ROWS}"]
    message = f"study {study}: {run.arm}, seed {run.seed}"
    command = [str(Path(sys.prefix) / "bin" / "dvc"), "exp", "run", "--name", name, "--message", message, *settings, "evaluate"]
    done = run_child(command, cwd=tree)
    if done.returncode:
        raise ToolError(message, f"dvc ended with {done.returncode}", "read the stage's output above, then run this again")
    return read_results(run, tree / "artifacts", git("-C", str(tree), "rev-parse", "--short", "HEAD"))


def read_results(run: ArmRun, artifacts: Path, commit: str) -> ArmMeasurement:
    """Read the measurement of a run from the files of its stages."""
    scores, training, report = (
        json.loads((artifacts / name).read_text(encoding="utf-8"))
        for name in ("evaluation/metrics.json", "training/metrics.json", "evaluation/report.json")
    )
    with (artifacts / "evaluation/confusion.csv").open(encoding="utf-8", newline="") as file:
        right = pack_bits([row["actual"] == row["predicted"] for row in csv.DictReader(file)])
    today = datetime.now(UTC).date().isoformat()
    return ArmMeasurement(run.key, run.overrides, commit, today, scores, training, right, report["rows"])


def remove_experiment(name: str, tree: Path) -> None:
    """Remove a DVC experiment of this name, left by a run that was killed before it was recorded."""
    refs = git("-C", str(tree), "for-each-ref", "--format=%(refname)", "refs/exps")
    for ref in refs.splitlines():
        if ref.endswith(f"/{name}"):
            git("-C", str(tree), "update-ref", "-d", ref)


def prepare_worktree(home: Path) -> Path:
    """Create or update the worktree at the commit that is checked out here, and return its folder."""
    tree, commit = home / "studies" / "tree", git("rev-parse", "HEAD")
    os.environ |= {MAIN_TREE: str(main_worktree()), "EVERGREEN_HOME": str(home)}  # for the processes in that tree
    if not (tree / ".git").exists():
        shutil.rmtree(tree, ignore_errors=True)
        git("worktree", "add", "--quiet", "--force", "--detach", str(tree), commit)
    git("-C", str(tree), "checkout", "--quiet", "--force", "--detach", commit)
    if not (tree / ".venv").exists():
        (tree / ".venv").symlink_to(sys.prefix)
    run_child([sys.executable, "-m", "pipeline.worktree"], cwd=tree).check_returncode()
    return tree


def append_measurement(measurement: ArmMeasurement, path: Path) -> None:
    """Append one line to the book."""
    lines = path.read_text(encoding="utf-8") if path.exists() else ""
    with atomic_write(path) as part:
        part.write_text(lines + json.dumps(measurement._asdict(), sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="files of docs/studies without their .yaml; all when none is named")
    parser.add_argument("--pages", action="store_true", help="measure nothing, and write the pages from measurements at hand")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    args = parser.parse_args()
    params, book = load_params(), args.folder / MEASURED
    names = args.names or sorted(path.stem for path in args.folder.glob("*.yaml"))
    studies = {name: read_study(args.folder / f"{name}.yaml") for name in names}
    runs = {name: expand_runs(study, args.folder / f"{name}.yaml", params) for name, study in studies.items()}
    tree = None if args.pages else prepare_worktree(find_home())
    for name, study in studies.items():
        if tree:
            measure_missing(name, runs[name], book, partial(run_experiment, tree=tree))
        write_page(name, study, runs[name], read_measurements(book), args.folder)
    print_line(f"→ {args.folder}")


if __name__ == "__main__":
    run_stage(main)
