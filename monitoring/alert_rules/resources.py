"""Alerts on resources: CPU and memory of our processes and of the node, and the GPU if Triton sees one."""

from monitoring.alert_rules.alert import DECIMAL, JOBS, NOTHING_AUTOMATIC, SHARE, Area, Rule, Severity
from pipeline.params import Alerts

AREA: Area = "resources"
SEVERITY: Severity = "warning"
PROCESSES = f'job=~"{JOBS["gateway"]}|{JOBS["monitor"]}"'
NEXT_STEP = f"{NOTHING_AUTOMATIC}. Answers get slower, or the kernel kills the process."


def resource_rules(alerts: Alerts) -> list[Rule]:
    """Return the rules on processes, node and GPU; without a GPU Triton exports no `nv_gpu_*`, and its alerts cannot fire."""
    return [*process_rules(alerts), *node_rules(alerts), *gpu_rules(alerts)]


def process_rules(alerts: Alerts) -> list[Rule]:
    """Return the rules on the gateway and the monitor; each is mostly one Python thread, so one core is all it can use."""
    instance = "{{ $labels.job }} at {{ $labels.instance }}"
    cores, limit_bytes = alerts.process_cpu_cores, alerts.process_memory_bytes
    return [
        _rule(
            "EvergreenProcessBusy",
            f"rate(process_cpu_seconds_total{{{PROCESSES}}}[5m]) > {cores:g}",
            "{{ $labels.job }} has no CPU left",
            f"{instance} uses {DECIMAL} cores. The limit is {cores:g}. Several gateways can share one database.",
            "ps -o pid,pcpu,rss,args -C python",
            alerts,
        ),
        _rule(
            "EvergreenProcessMemoryHigh",
            f"process_resident_memory_bytes{{{PROCESSES}}} > {limit_bytes}",
            "{{ $labels.job }} uses too much memory",
            f"{instance} uses {{{{ $value | humanize1024 }}}}B. The limit is {limit_bytes / 2**20:.0f} MiB.",
            "ps -o pid,pcpu,rss,args -C python",
            alerts,
        ),
    ]


def node_rules(alerts: Alerts) -> list[Rule]:
    """Return the rules on Triton's machine, as Triton measures it."""
    cpu, memory = alerts.node_cpu_share, alerts.node_memory_share
    machine = "The machine of Triton {{ $labels.instance }}"
    return [
        _rule(
            "EvergreenNodeBusy",
            f"avg_over_time(nv_cpu_utilization[5m]) > {cpu:g}",
            "Triton's machine has no CPU left",
            f"{machine} used {SHARE} of its CPUs on average over 5 min. The limit is {cpu:.0%}.",
            "top -b -n 1 | head -20",
            alerts,
        ),
        _rule(
            "EvergreenNodeMemoryHigh",
            f"nv_cpu_memory_used_bytes / nv_cpu_memory_total_bytes > {memory:g}",
            "Triton's machine has little memory left",
            f"{machine} uses {SHARE} of its memory. The limit is {memory:.0%}.",
            "free -m",
            alerts,
        ),
    ]


def gpu_rules(alerts: Alerts) -> list[Rule]:
    """Return the rules on each GPU, identified by its uuid."""
    busy, memory = alerts.gpu_share, alerts.gpu_memory_share
    gpu = "GPU {{ $labels.gpu_uuid }} of {{ $labels.instance }}"
    return [
        _rule(
            "EvergreenGpuBusy",
            f"avg_over_time(nv_gpu_utilization[10m]) > {busy:g}",
            "A GPU is fully used",
            f"{gpu} was busy for {SHARE} of the last 10 min. The limit is {busy:.0%}.",
            "nvidia-smi",
            alerts,
        ),
        _rule(
            "EvergreenGpuMemoryHigh",
            f"nv_gpu_memory_used_bytes / nv_gpu_memory_total_bytes > {memory:g}",
            "A GPU has little memory left",
            f"{gpu} uses {SHARE} of its memory. The limit is {memory:.0%}. A challenger may not fit next to the champion.",
            "nvidia-smi",
            alerts,
        ),
    ]


def _rule(name: str, expr: str, summary: str, description: str, look: str, alerts: Alerts) -> Rule:
    return Rule(name, AREA, SEVERITY, expr, summary, description, NEXT_STEP, look, alerts.for_s, alerts.keep_firing_s)
