"""The command `compare`: two models on the test rows that both answered, in at most 100 columns."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.cells import cell_len, set_cell_size

from evergreen.inspection import out
from pipeline.output.plain_text import printable
from pipeline.output.terminal import styled

if TYPE_CHECKING:
    from monitoring.retrain.history.comparison import ComparedModel, Comparison

COLUMNS = 100
LABEL, SHORT = 24, 9  # widths of columns
A_NAME = typer.Argument(help="a version or role, a DVC experiment or git revision, an MLflow run, or workspace")


def compare(
    a: Annotated[str, A_NAME],
    b: Annotated[str, typer.Argument(help="likewise")] = "workspace",
    examples: Annotated[int, typer.Option(help="texts shown of each kind", min=0)] = 5,
    classes: Annotated[int, typer.Option(help="classes shown", min=0)] = 15,
) -> None:
    """Compare two models: the gate's paired test, the classes and texts that changed, and the params that differ."""
    from monitoring.retrain.history.compared_models import find_model
    from monitoring.retrain.history.comparison import compare as compare_models
    from monitoring.retrain.history.sources import open_sources
    from pipeline.home import find_home
    from pipeline.params import load_params

    params = load_params()
    with open_sources(find_home(), params) as sources:
        models = find_model(a, sources), find_model(b, sources)
    comparison = compare_models(*models, params.gate, params.evaluate.confidence)
    for line in summary_lines(*models, comparison, params.evaluate.confidence):
        out.print(line)
    for title, lines in (
        ("classes whose answers changed (recall; ! proved over all classes)", class_lines(comparison, classes)),
        ("texts whose answer changed", text_lines(comparison, examples)),
        ("params that differ", param_lines(comparison)),
    ):
        out.print()
        out.print(styled(title, "bold"))
        for line in lines:
            out.print(line)


def summary_lines(a: "ComparedModel", b: "ComparedModel", found: "Comparison", confidence: float) -> list[str]:
    """Return the models, their scores and the verdict of the paired test."""
    counts = found.counts
    rows = f"{counts.rows} test rows in common"
    others = [f"{count} only in {name}" for name, count in (("A", found.only_a), ("B", found.only_b)) if count]
    changed = [f"{found.relabelled} have another label in B, which counts"] if found.relabelled else []
    interval = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    is_proved = found.p_value <= 1 - confidence
    verdict = ("B is better" if counts.difference > 0 else "A is better") if is_proved else "no difference is proved"
    gate = "pass" if found.gate_passes else "refuse"
    return [
        fit(f"A  {a.title}", COLUMNS),
        fit(f"B  {b.title}", COLUMNS),
        fit("; ".join([rows, *others, *changed]), COLUMNS),
        "",
        f"{'':10}{'A':>9}{'B':>9}{'B − A':>9}   {confidence:.0%} interval",
        f"{'accuracy':10}{_percent(found.accuracy.a)}{_percent(found.accuracy.b)}{100 * counts.difference:>+9.1f}   {interval}",
        f"{'macro-F1':10}{_percent(found.f1_macro.a)}{_percent(found.f1_macro.b)}"
        f"{100 * (found.f1_macro.b - found.f1_macro.a):>+9.1f}",
        f"only B is right on {counts.gained} rows, only A on {counts.lost}: p = {found.p_value:.2g} (exact McNemar test)",
        f"{verdict}; with A as the champion, the gate's test of rows would {gate} B",
    ]


def class_lines(found: "Comparison", most: int) -> list[str]:
    """Return a line for each of the classes that changed most."""
    if not found.classes:
        return ["none"]
    lines = [f"  {'label':{LABEL}}{'rows':>6}{'A':>9}{'B':>9}{'B − A':>9}{'gained':>8}{'lost':>6}"]
    for change in found.classes[:most]:
        mark, counts = "!" if change.is_proved else " ", change.counts
        lines.append(
            f"{mark} {fit(change.label, LABEL)}{counts.rows:>6}{_percent(change.recall_a)}{_percent(change.recall_b)}"
            f"{100 * counts.difference:>+9.1f}{counts.gained:>8}{counts.lost:>6}"
        )
    return [*lines, *_rest(len(found.classes), most)]


def text_lines(found: "Comparison", most: int) -> list[str]:
    """Return the first texts that B loses, gains and answers wrong in another way."""
    kinds = Counter(change.kind for change in found.texts)
    if not kinds:
        return ["none"]
    lines = [f"B loses {kinds['lost']}, gains {kinds['gained']}; on {kinds['both wrong']} both are wrong in different ways"]
    for kind in ("lost", "gained", "both wrong"):
        for change in [change for change in found.texts if change.kind == kind][:most]:
            lines.append(fit(f"{kind:>10}  “{change.text}”", COLUMNS))
            right = f", right: {change.label}" if kind == "both wrong" else ""
            lines.append(fit(f"{'':12}A: {change.a}, B: {change.b}{right}", COLUMNS))
    return lines


def param_lines(found: "Comparison") -> list[str]:
    """Return a line for each param."""
    if not found.params:
        return ["none that both have logged"]
    width = (COLUMNS - 36) // 2
    return [fit(name, 34) + "  " + fit(a, width) + fit(b, width).rstrip() for name, a, b in (("", "A", "B"), *found.params)]


def fit(text: str, width: int) -> str:
    """Return the text in exactly so many columns: filled up, or cut with an ellipsis."""
    shown = printable(text)
    return set_cell_size(shown, width) if cell_len(shown) <= width else set_cell_size(shown, width - 1) + "…"


def _percent(share: float) -> str:
    return f"{100 * share:>{SHORT}.1f}"


def _rest(count: int, most: int) -> Sequence[str]:
    return [f"  … and {count - most} more (--classes)"] if count > most else []
