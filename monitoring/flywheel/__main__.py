"""Run the flywheel's process: `python -m monitoring.flywheel`."""

from monitoring.flywheel.app import main
from pipeline.errors import run_stage

if __name__ == "__main__":
    run_stage(main)
