"""The load test: open loop, latency counted from the intended send time, every request ends in exactly one status.

`plan` draws times and texts beforehand · `targets` knows what to send and how to read an answer · `sender` sends and books
· `result` counts · `limit` looks for the highest rate · `report` draws and writes · `command` is what the console calls.
"""

from serving.loadtest.command import loadtest, read_texts
from serving.loadtest.limit import Limit, Step, find_limit
from serving.loadtest.plan import Load, Plan, make_plan
from serving.loadtest.report import write_report
from serving.loadtest.result import Result, after
from serving.loadtest.run import equals, run, run_load
from serving.loadtest.targets import Answer, Target, gateway_target, http_target, triton_target

__all__ = [
    "Answer",
    "Limit",
    "Load",
    "Plan",
    "Result",
    "Step",
    "Target",
    "after",
    "equals",
    "find_limit",
    "gateway_target",
    "http_target",
    "loadtest",
    "make_plan",
    "read_texts",
    "run",
    "run_load",
    "triton_target",
    "write_report",
]
