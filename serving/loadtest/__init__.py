"""An open-loop load test: latency counts from the intended send time, and every request ends in exactly one status.
Knows no server's code, only addresses.

`plan` draws times and texts · `targets` encodes requests and reads answers · `sender` sends and records · `result` computes the
figures · `limit` searches for the highest rate · `report` draws and writes · `command` is `evergreen loadtest`.
"""

from serving.loadtest.command import loadtest, read_texts
from serving.loadtest.limit import Limit, Step, find_limit
from serving.loadtest.plan import Load, Plan, make_plan
from serving.loadtest.report import write_report
from serving.loadtest.result import Result, without_warmup
from serving.loadtest.run import expect_labels, run, run_load
from serving.loadtest.targets import Answer, Target, gateway_target, http_target, triton_target

__all__ = [
    "Answer",
    "Limit",
    "Load",
    "Plan",
    "Result",
    "Step",
    "Target",
    "expect_labels",
    "find_limit",
    "gateway_target",
    "http_target",
    "loadtest",
    "make_plan",
    "read_texts",
    "run",
    "run_load",
    "triton_target",
    "without_warmup",
    "write_report",
]
