"""The MLflow run of an A/B test: its settings, its figures and its verdict. Only commands import this: MLflow takes seconds."""

from pathlib import Path

from monitoring.release.ab.look import AbLook
from pipeline.tracking.runs import stage_run

SETTINGS = ("champion", "challenger", "weight", "metric", "caller", "is_lower_better", "alpha", "margin", "expected_units")


def log_test(look: AbLook, home: Path) -> str | None:
    """Log the test as a run; return its id, None when MLflow cannot be reached."""
    test, record = look.test, look.test.verdict or look.record()
    settings = {f"ab.{name}": str(getattr(test, name)) for name in SETTINGS}
    with stage_run("ab", settings, home) as run:
        run.metrics({f"ab/{name}": float(value) for name, value in record.items() if isinstance(value, int | float)})
        run.tags({"ab.verdict": record["answer"], "ab.test": test.id})
        run.note("A/B test", f"A is version {test.champion}, B is version {test.challenger}: {record['sentence']}")
        return run.id
