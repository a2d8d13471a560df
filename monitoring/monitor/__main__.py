"""Run the monitor: `python -m monitoring.monitor`."""

from monitoring.monitor.app import main
from pipeline.errors import run_stage

if __name__ == "__main__":
    run_stage(main)
