"""Run the retrain controller: `python -m monitoring.retrain`."""

from monitoring.retrain.app import main
from pipeline.errors import run_stage

if __name__ == "__main__":
    run_stage(main)
