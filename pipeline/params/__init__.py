"""The typed records of params.yaml: one frozen record for each section, without defaults. Knows no stage and no process.

Modules follow the people who change the sections: `making`, `serving` and `monitoring`.
"""

from pipeline.params.load import Params, flatten, load_params
from pipeline.params.making import (
    Abstain,
    Causal,
    Data,
    Evaluate,
    Export,
    Lora,
    Model,
    Package,
    Publish,
    Reference,
    Session,
    Split,
    Spread,
    Train,
    integers,
    rates_by_pattern,
)
from pipeline.params.monitoring import AbSettings, Alerts, Flywheel, Gate, Labels, Monitor, ReleaseSettings, Retrain
from pipeline.params.section import Section
from pipeline.params.serving import Gateway, Http, Jobs, Log, Serve

__all__ = [
    "AbSettings",
    "Abstain",
    "Alerts",
    "Causal",
    "Data",
    "Evaluate",
    "Export",
    "Flywheel",
    "Gate",
    "Gateway",
    "Http",
    "Jobs",
    "Labels",
    "Log",
    "Lora",
    "Model",
    "Monitor",
    "Package",
    "Params",
    "Publish",
    "Reference",
    "ReleaseSettings",
    "Retrain",
    "Section",
    "Serve",
    "Session",
    "Split",
    "Spread",
    "Train",
    "flatten",
    "integers",
    "load_params",
    "rates_by_pattern",
]
