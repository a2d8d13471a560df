"""The console script: a thin interface to the packages. Commands import them when they run, so that `--help` is fast."""

import json
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from evergreen import (
    ab,
    alerting,
    comparing,
    exporting,
    flywheel,
    gradual,
    inspection,
    labelling,
    predicting,
    releasing,
    retraining,
    tokens,
    trial,
)
from evergreen.checking import check
from evergreen.doctor import doctor
from evergreen.inspection import out
from evergreen.releasing import announce
from pipeline.errors import EvergreenError
from pipeline.lifetime import end_on_signals
from pipeline.loopback import bypass_proxies
from pipeline.output.plain_logs import log_as_plain_text
from pipeline.output.plain_text import print_lines
from pipeline.output.terminal import Terminal, styled

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Keep a fine-tuned language model good while the world it serves changes.",
)
COMMANDS: tuple[Callable[..., None], ...] = (
    *(check, inspection.status, inspection.why, inspection.gate, doctor),
    *(releasing.publish, gradual.promote, releasing.rollback, releasing.route),
    *(retraining.retrain, retraining.backtest),
    *(predicting.predict, comparing.compare, exporting.export, flywheel.audit),
)
for _command in COMMANDS:
    app.command()(_command)
app.command("try")(trial.run_trial)
app.add_typer(tokens.app, name="token")
app.add_typer(ab.app, name="ab")
app.add_typer(alerting.app, name="alerts")
app.add_typer(labelling.labels, name="labels")
app.add_typer(labelling.disputes, name="disputes")
app.add_typer(flywheel.clusters, name="clusters")
app.add_typer(gradual.app, name="release")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="hub id of a data set, for example PolyAI/banking77")],
    config: Annotated[str | None, typer.Option(help="configuration of the data set")] = None,
    split: Annotated[str, typer.Option(help="split to fetch")] = "train",
    revision: Annotated[str | None, typer.Option(help="tag or commit to pin")] = None,
    to: Annotated[Path, typer.Option(help="file to write (jsonl)")] = Path("data/fetched/source.jsonl"),
) -> None:
    """Download a data set from the hub to a file for data.source."""
    from pipeline.sharing import fetch as hub

    rows = hub.fetch(name, config=config, split=split, revision=revision, out=to)
    out.print(f"{rows} rows → {to}")
    out.print(f"next: .venv/bin/evergreen try -S data.source={to}")


@app.command()
def serve() -> None:
    """Serve the champion with Triton and the gateway until Ctrl-C."""
    from monitoring.console.process import SharedConsole
    from pipeline.home import find_home
    from pipeline.params import load_params
    from pipeline.session.golden_answers import example_question
    from serving import serve as server
    from serving.access.tokens import read_tokens, tokens_path
    from serving.processes.addresses import base_url, reach_host
    from serving.release.manifest import version_folder

    home, params = find_home(), load_params()
    version = _champion_version(home)
    _stop_on_signals()
    console = SharedConsole(params, home) if params.alerts.console == "here" else None

    def ready(logs: list[Path]) -> None:
        gateway = base_url(reach_host("gateway", params.gateway.host), params.gateway.port)
        http, grpc, metrics = (
            f"{params.serve.host}:{port}" for port in (params.serve.http_port, params.serve.grpc_port, params.serve.metrics_port)
        )
        out.print(styled("✓", "green"), f"version {version} answers")
        out.print(f"  gateway  {gateway}/v1/predict  API {gateway}/docs  metrics {gateway}/metrics")
        if console:
            out.print(f"  console  {console.url}  pages for the browser")
        out.print(f"  Triton   http://{http}  gRPC {grpc}  metrics http://{metrics}/metrics  (KServe v2)")
        out.print(f"  logs     {'  '.join(str(log) for log in logs)}")
        out.print("  in another terminal:")
        token = "" if read_tokens(tokens_path(home)) is None else ' -H "authorization: Bearer $TOKEN"'
        json_type = '-H "content-type: application/json"'
        question = example_question(params.data.source, version_folder(home, version))
        body = json.dumps({"text": question}, ensure_ascii=False)
        out.print(f"    curl -s {gateway}/v1/predict{token} {json_type} -d {shlex.quote(body)}")
        out.print(f"    .venv/bin/evergreen ask {'-- ' if question.startswith('-') else ''}{shlex.quote(question)}")
        out.print("  Ctrl-C stops it")

    try:
        companions, front_page = ([console], console.url) if console else ([], "")
        server.serve(params, home, announce, ready, companions=companions, front_page=front_page)
    except KeyboardInterrupt:
        out.print("stopped")


@app.command()
def ask(
    texts: Annotated[list[str], typer.Argument(help="texts as a customer writes them")],
    start: Annotated[bool, typer.Option("--start", help="start a Triton for this question when none is running")] = False,
) -> None:
    """Ask the champion through Triton."""
    from pipeline.abstention import read_abstention
    from pipeline.errors import ToolError
    from pipeline.home import find_home
    from pipeline.output.shares import percent
    from pipeline.params import load_params
    from pipeline.runtime.model_files import model_digest
    from serving.release.manifest import model_name, repository

    home, params = find_home(), load_params()
    version = _champion_version(home)
    from serving.triton.client import model_parameters, predict_labels, server_settings

    settings = server_settings(params.serve)
    model = model_name(version)
    served = model_parameters(settings, model) or {}
    if served and served.get("model_digest") == model_digest(repository(home) / model / "1"):
        answers = predict_labels(settings, model, texts)
    elif start:
        from serving.release.live.folders import verified
        from serving.triton.server import run_server, with_free_ports

        _stop_on_signals()
        verified(home, version)
        with run_server(repository(home), [model], with_free_ports(settings), home) as server:
            answers = predict_labels(server.serve, model, texts)
        server.log.unlink()
    else:
        what = f"no Triton serves version {version} of this project there"
        raise ToolError(f"{settings.host}:{settings.http_port}", what, "start one: make serve (or add --start)")
    abstention = read_abstention(repository(home) / model)
    for text, (label, confidence) in zip(texts, answers, strict=True):
        sure = f" {percent(confidence)} sure, version {version}, by Triton"
        if abstention.is_unsure(confidence):
            given = styled(abstention.fallback or "no label", "bold yellow")
            out.print(f"“{text}” →", given, f" unsure: {label}{sure}; below {percent(abstention.threshold)} it abstains")
        else:
            out.print(f"“{text}” →", styled(label, "bold green"), sure)


@app.command()
def loadtest(
    texts: Annotated[Path, typer.Argument(help="data file with the texts to send")],
    url: Annotated[
        str | None, typer.Option(help="URL of the gateway, by default from params; of Triton with --triton-model")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="requests a second; default: search for the highest rate that keeps the P99 limit")
    ] = None,
    p99_ms: Annotated[float, typer.Option(help="P99 limit of the search")] = 50.0,
    duration_s: Annotated[float, typer.Option(help="length of each run")] = 10.0,
    constant: Annotated[bool, typer.Option(help="even gaps between requests; default: random gaps (Poisson)")] = False,
    repeats: Annotated[float, typer.Option(help="share of texts that were sent before, by a Zipf law")] = 0.0,
    triton_model: Annotated[str | None, typer.Option(help="send to this model of a KServe v2 server")] = None,
    body: Annotated[str | None, typer.Option(help="template of a JSON body, for any other endpoint")] = None,
    header: Annotated[list[str] | None, typer.Option(help="name: value; may be repeated")] = None,
    report: Annotated[Path, typer.Option(help="folder of the report")] = Path("reports/loadtest"),
) -> None:
    """Run an open-loop load test and write a report; latency counts from the intended send time."""
    from pipeline.params import load_params
    from serving.loadtest import command
    from serving.processes.addresses import base_url, reach_host

    params = load_params()
    command.loadtest(
        url or base_url(reach_host("gateway", params.gateway.host), params.gateway.port),
        texts,
        params.data,
        out,
        rate=rate,
        p99_limit_ms=p99_ms,
        duration_s=duration_s,
        arrivals="constant" if constant else "poisson",
        repeat_share=repeats,
        triton_model=triton_model,
        body=body,
        headers=header or [],
        folder=report,
    )


@app.command()
def ui(port: Annotated[int, typer.Option(help="port on 127.0.0.1")] = 5000) -> None:
    """Open MLflow on the pipeline's store in the browser."""
    from pipeline.home import find_home
    from pipeline.tracking.runs import show

    _stop_on_signals()
    show(find_home(), port, lambda url: out.print(f"MLflow: {url}  (Ctrl-C stops it)"))


@app.command()
def env() -> None:
    """Print what a shell needs for MLflow's own tools and Python: eval "$(.venv/bin/evergreen env)"."""
    from pipeline.home import find_home
    from pipeline.tracking.address import export_line

    print_lines(export_line(find_home()))


def _stop_on_signals() -> None:
    """Let `kill` and a closed terminal stop everything as Ctrl-C does."""
    end_on_signals(lambda number: signal.default_int_handler(number, None))


def _champion_version(home: Path) -> int:
    from pipeline.errors import ToolError
    from serving.release.publish import champion

    release = champion(home)
    if release is None:
        raise ToolError(str(home), "no version has been published", "make repro")
    return release.version


def main() -> None:
    """Run a command; an `EvergreenError` ends with its message and exit code."""
    log_as_plain_text()
    bypass_proxies()
    try:
        app()
    except EvergreenError as error:
        Terminal(stderr=True).print(styled("error:", "red"), end=" ")
        print_lines(str(error), file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
