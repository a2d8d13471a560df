"""`make studies`: every arm of every study as a DVC experiment, and a page with table and picture for each.

Works in a git worktree of its own in the home of state, on the commit that is checked out here: nobody's params, artifacts or
lock file are touched. An arm that was measured is not measured again; `--pages` only writes the pages anew.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pipeline.atomic_write import atomic_write
from pipeline.errors import ToolError, run_stage
from pipeline.home import find_home, git
from pipeline.params import load_params
from pipeline.tuning.study import Measured, Run, as_argument, as_bits, read_measured, read_study, runs_of
from pipeline.tuning.study_page import write_page

FOLDER = Path("docs/studies")
MEASURED = "measured.jsonl"
ALL = 10**9  # training rows that are scored: what was learnt by heart


def fill(name: str, runs: Sequence[Run], book: Path, measure: Callable[[str, Run], Measured]) -> None:
    """Measure what the book lacks; what was measured is written down at once."""
    for run in runs:
        if run.key not in read_measured(book):
            print(f"{name}: {run.arm}, seed {run.seed}", flush=True)
            remember(measure(name, run), book)


def experiment(study: str, run: Run, tree: Path) -> Measured:
    """One experiment: ingest, split, train, evaluate, as far as DVC does not know them."""
    git("-C", str(tree), "checkout", "--quiet", "--force", "HEAD", "--", "params.yaml")
    name = f"{study}-{run.key}"
    forget(name, tree)
    settings = [part for item in run.overrides.items() for part in ("--set-param", as_argument(*item))]
    settings += ["--set-param", f"evaluate.training_rows={ALL}"]
    message = f"study {study}: {run.arm}, seed {run.seed}"
    command = [str(Path(sys.prefix) / "bin" / "dvc"), "exp", "run", "--name", name, "--message", message, *settings, "evaluate"]
    done = subprocess.run(command, cwd=tree)
    if done.returncode:
        raise ToolError(message, f"dvc ended with {done.returncode}", "read what the stage said above, then call this again")
    return read(run, tree / "artifacts", git("-C", str(tree), "rev-parse", "--short", "HEAD"))


def read(run: Run, artifacts: Path, commit: str) -> Measured:
    """From the files that the stages wrote."""
    scores, training, report = (
        json.loads((artifacts / name).read_text(encoding="utf-8"))
        for name in ("evaluation/metrics.json", "training/metrics.json", "evaluation/report.json")
    )
    with (artifacts / "evaluation/confusion.csv").open(encoding="utf-8", newline="") as file:
        right = as_bits([row["actual"] == row["predicted"] for row in csv.DictReader(file)])
    today = datetime.now(UTC).date().isoformat()
    return Measured(run.key, run.overrides, commit, today, scores, training, right, report["rows"])


def forget(name: str, tree: Path) -> None:
    """An experiment of this name whose result a kill kept from being written down."""
    refs = git("-C", str(tree), "for-each-ref", "--format=%(refname)", "refs/exps")
    for ref in refs.splitlines():
        if ref.endswith(f"/{name}"):
            git("-C", str(tree), "update-ref", "-d", ref)


def laid_out(home: Path) -> Path:
    """The worktree, at the commit that is checked out here."""
    tree, commit = home / "studies" / "tree", git("rev-parse", "HEAD")
    if not (tree / ".git").exists():
        shutil.rmtree(tree, ignore_errors=True)
        git("worktree", "add", "--quiet", "--force", "--detach", str(tree), commit)
    git("-C", str(tree), "checkout", "--quiet", "--force", "--detach", commit)
    if not (tree / ".venv").exists():
        (tree / ".venv").symlink_to(sys.prefix)
    subprocess.run([sys.executable, "-m", "pipeline.worktree"], cwd=tree, check=True)
    return tree


def remember(one: Measured, path: Path) -> None:
    """One more line."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    with atomic_write(path) as part:
        part.write_text(before + json.dumps(one._asdict(), sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="files of docs/studies without their .yaml; all when none is named")
    parser.add_argument("--pages", action="store_true", help="measure nothing, write the pages of what was measured")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    args = parser.parse_args()
    params, book = load_params(), args.folder / MEASURED
    names = args.names or sorted(path.stem for path in args.folder.glob("*.yaml"))
    studies = {name: read_study(args.folder / f"{name}.yaml") for name in names}
    runs = {name: runs_of(study, args.folder / f"{name}.yaml", params) for name, study in studies.items()}
    tree = None if args.pages else laid_out(find_home())
    for name, study in studies.items():
        if tree:
            fill(name, runs[name], book, partial(experiment, tree=tree))
        write_page(name, study, runs[name], read_measured(book), args.folder)
    print(f"→ {args.folder}")


if __name__ == "__main__":
    run_stage(main)
