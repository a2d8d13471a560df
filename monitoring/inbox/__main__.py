"""Run the inbox: `python -m monitoring.inbox`."""

from monitoring.inbox.app import main
from pipeline.errors import run_stage

if __name__ == "__main__":
    run_stage(main)
