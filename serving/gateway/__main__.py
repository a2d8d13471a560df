"""Runs the gateway: `python -m serving.gateway`."""

from pipeline.errors import run_stage
from serving.gateway.app import main

if __name__ == "__main__":
    run_stage(main)
