"""Measure disagreement now: `python -m monitoring.flywheel.disagreement`. The flywheel's process runs it between rounds."""

import time

from monitoring.flywheel.disagreement.measure import ModelComparison, measure_disagreement
from pipeline.errors import run_stage
from pipeline.home import find_home
from pipeline.output.plain_text import print_line, print_lines
from pipeline.params import load_params
from serving.processes.json_logs import log_in_json


def main() -> None:
    """Measure, and print a line for each second model."""
    log_in_json()
    comparisons = measure_disagreement(find_home(), load_params(), time.time())
    print_lines("\n".join(map(describe, comparisons))) if comparisons else print_line("no second model has answered a text")


def describe(comparison: ModelComparison) -> str:
    """Return a measurement in a line."""
    row = comparison.measurement
    counts = f"{row.differing} of {row.compared} texts differ, {row.reference_differing} of {row.reference_rows} reference rows"
    beyond = f"{row.share:+.1%} beyond what is expected ({row.lower:+.1%} to {row.upper:+.1%})"
    return f"version {row.version} and {row.other}: {counts}; {row.unstable} of {row.repeated} repeats; {beyond}"


if __name__ == "__main__":
    run_stage(main)
