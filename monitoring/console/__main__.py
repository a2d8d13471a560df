"""Run the console: `python -m monitoring.console`."""

from monitoring.console.app import main
from pipeline.errors import run_stage

if __name__ == "__main__":
    run_stage(main)
