"""The console script: a thin face over the packages. Commands load what they need when they run, so that `--help` is quick."""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.errors import EvergreenError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Keeps a fine-tuned language model good while the world it serves changes."
)
out = Console(highlight=False, soft_wrap=True)

PACKAGE = Path("artifacts/package")
METRICS, DVC_LOCK = Path("artifacts/evaluation/metrics.json"), Path("dvc.lock")

NEXT = {
    "make serve": 'serve the champion (then: .venv/bin/evergreen ask "…")',
    "make ui": "look at the run in MLflow",
    ".venv/bin/dvc exp run -S train.epochs=4": "try something else",
}


@app.command()
def check() -> None:
    """Check params.yaml, the data and the tools, before the pipeline runs."""
    from pipeline.check import check as found

    for line in found():
        out.print(f"[green]✓[/] {escape(line)}")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="hub id of a data set, for example PolyAI/banking77")],
    config: Annotated[str | None, typer.Option(help="configuration of the data set")] = None,
    split: Annotated[str, typer.Option(help="which of its splits")] = "train",
    revision: Annotated[str | None, typer.Option(help="tag or commit to pin")] = None,
    to: Annotated[Path, typer.Option(help="file to write (jsonl)")] = Path("data/fetched/source.jsonl"),
) -> None:
    """Bring a hub data set to a file that data.source can name."""
    from pipeline.fetch import fetch as bring

    rows = bring(name, config=config, split=split, revision=revision, out=to)
    out.print(f"{rows} rows → {to}\nnext: .venv/bin/dvc exp run -S data.source={to}")


@app.command()
def publish(first: Annotated[bool, typer.Option("--first", help="only when there is no champion yet")] = False) -> None:
    """Make the packaged model a version: registry, live repository, release table."""
    from pipeline.home import find_home
    from pipeline.params import load_params
    from serving.publish import champion, is_other_than
    from serving.publish import publish as do

    home = find_home()
    there = champion(home) if first else None
    if there and is_other_than(there, PACKAGE):
        out.print(f"version {there.version} stays champion; to make this package its challenger: .venv/bin/evergreen publish")
        return
    published = do(PACKAGE, DVC_LOCK, load_params().publish.name, home)
    word = "was published before as" if published.was_there else "is now"
    out.print(
        f"this package {word} version {published.release.version}, {published.release.role} → {escape(str(published.folder))}"
    )


@app.command()
def serve() -> None:
    """Serve the champion with Triton until Ctrl-C."""
    from pipeline.home import find_home
    from pipeline.params import load_params
    from serving.publish import repository
    from serving.triton import ended, model_name, running

    home, settings = find_home(), load_params().serve
    version = _champion_version(home)
    _end_on_signals()
    with running(repository(home), [version], settings, home) as server:
        http, grpc, metrics = (
            f"{settings.host}:{port}" for port in (settings.http_port, settings.grpc_port, settings.metrics_port)
        )
        out.print(f"[green]✓[/] version {version} answers as [bold]{model_name(version)}[/] (KServe v2)")
        out.print(f"  http://{http}  gRPC {grpc}  metrics http://{metrics}/metrics  log {escape(str(server.log))}")
        out.print('  ask it, in another terminal:  .venv/bin/evergreen ask "where is my parcel?"\n  Ctrl-C stops it')
        try:
            server.process.wait()
        except KeyboardInterrupt:
            out.print("stopping")
            return
        raise ended(server)


@app.command()
def ask(
    texts: Annotated[list[str], typer.Argument(help="what a customer would write")],
    start: Annotated[bool, typer.Option("--start", help="start a Triton for this question alone when none is running")] = False,
) -> None:
    """Ask the champion, through Triton."""
    from pipeline.errors import ToolError
    from pipeline.home import find_home
    from pipeline.params import load_params
    from pipeline.runtime.classifier import model_digest
    from serving.publish import repository
    from serving.triton import ask_grpc, digest_served, free_ports, model_name, running

    home, settings = find_home(), load_params().serve
    version = _champion_version(home)
    if digest_served(settings, version) == model_digest(repository(home) / model_name(version) / "1"):
        answers = ask_grpc(settings, version, texts)
    elif start:
        _end_on_signals()
        with running(repository(home), [version], free_ports(settings), home) as server:
            answers = ask_grpc(server.serve, version, texts)
        server.log.unlink()
    else:
        what = f"no Triton serves version {version} of this project there"
        raise ToolError(f"{settings.host}:{settings.http_port}", what, "start one: make serve (or add --start)")
    for text, label, row in zip(texts, answers.labels, answers.probabilities, strict=True):
        out.print(f"“{escape(text)}” → [bold green]{label}[/]  {row.max():.0%} sure, version {version}, by Triton")


@app.command()
def status() -> None:
    """What serves, how good the last model is, where everything lies, and what to do next."""
    from pipeline.home import find_home
    from serving.publish import champion

    home = find_home()
    there = champion(home)
    out.print(f"champion: {f'version {there.version}' if there else 'none yet'}")
    if METRICS.is_file():
        out.print(_scores(json.loads(METRICS.read_text(encoding="utf-8"))))
    out.print(f"everything lives in\n  {escape(str(home))}  state: MLflow, live models, DVC remote")
    out.print(f"  {escape(str(Path('artifacts').absolute()))}  what the pipeline made\nnext:")
    for command, why in NEXT.items():
        out.print(f"  {command:<45}{why}")


@app.command()
def ui(port: Annotated[int, typer.Option(help="port on 127.0.0.1")] = 5000) -> None:
    """MLflow in the browser, on the store that the pipeline writes to."""
    from pipeline.home import find_home
    from pipeline.tracking import show

    out.print(f"MLflow: http://127.0.0.1:{port}  (Ctrl-C stops it)")
    show(find_home(), port)


def _end_on_signals() -> None:
    """`kill` and a closed terminal stop all, as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def _scores(metrics: dict[str, dict[str, float]]) -> Table:
    table = Table(
        "on the test rows", "accuracy", "macro-F1", title="the last model made here, beside its control", title_justify="left"
    )
    for name, row in (("fine-tuned", metrics["test"]), ("frozen encoder + logistic regression", metrics["control"])):
        table.add_row(name, f"{row['accuracy']:.4f}", f"{row['f1_macro']:.4f}")
    return table


def _champion_version(home: Path) -> int:
    from pipeline.errors import ToolError
    from serving.publish import champion

    there = champion(home)
    if there is None:
        raise ToolError(str(home), "no version has been published", "make repro")
    return there.version


def main() -> None:
    """Run a command; errors for people end with their message and exit code."""
    try:
        app()
    except EvergreenError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print("[red]error:[/]", end=" ")
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
