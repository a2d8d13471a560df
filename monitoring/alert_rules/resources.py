"""Alerts on what work needs: CPU and memory of our processes and of the node, and the GPU where Triton sees one."""

from monitoring.alert_rules.alert import BY_A_PERSON, DECIMAL, JOBS, SHARE, Area, Rule, Severity
from pipeline.params import Alerts

AREA: Area = "resources"
SEVERITY: Severity = "warning"
OURS = f'job=~"{JOBS["gateway"]}|{JOBS["monitor"]}"'
THEN = f"{BY_A_PERSON}; answers get slower, or the kernel ends the process."


def machines(alerts: Alerts) -> list[Rule]:
    """Processes, node and GPU; without a GPU Triton exports no `nv_gpu_*`, and its alerts cannot fire."""
    return [*processes(alerts), *node(alerts), *gpu(alerts)]


def processes(alerts: Alerts) -> list[Rule]:
    """The gateway and the monitor are one thread of Python each, mostly: a core is all they can use."""
    who = "{{ $labels.job }} at {{ $labels.instance }}"
    cores, most = alerts.process_cpu_cores, alerts.process_memory_bytes
    return [
        _rule(
            "EvergreenProcessBusy",
            f"rate(process_cpu_seconds_total{{{OURS}}}[5m]) > {cores:g}",
            "{{ $labels.job }} has no CPU left",
            f"{who} uses {DECIMAL} cores; at {cores:g} it is at its end. More gateways share one database.",
            "ps -o pid,pcpu,rss,args -C python",
            alerts,
        ),
        _rule(
            "EvergreenProcessMemoryHigh",
            f"process_resident_memory_bytes{{{OURS}}} > {most}",
            "{{ $labels.job }} holds much memory",
            f"{who} holds {{{{ $value | humanize1024 }}}}B; {most / 2**20:.0f} MiB is the limit.",
            "ps -o pid,pcpu,rss,args -C python",
            alerts,
        ),
    ]


def node(alerts: Alerts) -> list[Rule]:
    """The machine that Triton runs on, as Triton sees it."""
    cpu, memory = alerts.node_cpu_share, alerts.node_memory_share
    where = "The machine of Triton {{ $labels.instance }}"
    return [
        _rule(
            "EvergreenNodeBusy",
            f"avg_over_time(nv_cpu_utilization[5m]) > {cpu:g}",
            "The machine of Triton has no CPU left",
            f"{where} uses {SHARE} of its CPUs, on average of 5 min; {cpu:.0%} is the limit.",
            "top -b -n 1 | head -20",
            alerts,
        ),
        _rule(
            "EvergreenNodeMemoryHigh",
            f"nv_cpu_memory_used_bytes / nv_cpu_memory_total_bytes > {memory:g}",
            "The machine of Triton has little memory left",
            f"{where} has {SHARE} of its memory in use; {memory:.0%} is the limit.",
            "free -m",
            alerts,
        ),
    ]


def gpu(alerts: Alerts) -> list[Rule]:
    """Each GPU by its uuid."""
    busy, memory = alerts.gpu_share, alerts.gpu_memory_share
    which = "GPU {{ $labels.gpu_uuid }} of {{ $labels.instance }}"
    return [
        _rule(
            "EvergreenGpuBusy",
            f"avg_over_time(nv_gpu_utilization[10m]) > {busy:g}",
            "A GPU has nothing left to give",
            f"{which} was busy {SHARE} of the last 10 min; {busy:.0%} is the limit.",
            "nvidia-smi",
            alerts,
        ),
        _rule(
            "EvergreenGpuMemoryHigh",
            f"nv_gpu_memory_used_bytes / nv_gpu_memory_total_bytes > {memory:g}",
            "A GPU has little memory left",
            f"{which} has {SHARE} of its memory in use; {memory:.0%} is the limit. A challenger may not fit beside the champion.",
            "nvidia-smi",
            alerts,
        ),
    ]


def _rule(name: str, expr: str, summary: str, description: str, look: str, alerts: Alerts) -> Rule:
    return Rule(name, AREA, SEVERITY, expr, summary, description, THEN, look, alerts.for_s, alerts.keep_firing_s)
