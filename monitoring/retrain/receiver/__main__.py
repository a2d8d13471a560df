"""Run the receiver of alerts: `python -m monitoring.retrain.receiver`."""

from monitoring.retrain.receiver.app import main
from pipeline.errors import run_stage

if __name__ == "__main__":
    run_stage(main)
