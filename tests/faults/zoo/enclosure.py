"""A stack for the zoo: `evergreen serve` with the original as champion, quick logs, and steps that little traffic can climb."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from pipeline.params import Params
from tests.faults.stack import lay_out, serving
from tests.faults.zoo.habitat import Habitat
from tests.faults.zoo.trial import Enclosure

STEPS = "0.25 0.5"  # the shipped ones wait for as many answers of the challenger, beside up to 100 times as many of the champion


@contextmanager
def enclosure(habitat: Habitat, dvc_lock: Path, params: Params, folder: Path) -> Iterator[Enclosure]:
    """Serve the original in this folder until the block ends."""
    installation = lay_out(folder, habitat.original.package, dvc_lock, with_quick_looks(params), factors=(1.0,))
    with serving(installation) as process:
        yield Enclosure(habitat, installation, dvc_lock, psutil.Process(process.pid))


def with_quick_looks(params: Params) -> Params:
    """Return params for a few hundred texts in half a minute: no copy is dropped, and a look need not wait for the log."""
    quick = {"shadow_waiting_texts": 4000, "deadline_ms": 20_000, "routing_poll_ms": 100}
    gateway = params.gateway.model_copy(update=quick | {"cache_bytes": 0})  # each mutant gets the same texts
    log = params.log.model_copy(update={"flush_s": 0.2})
    release = params.release.model_copy(update={"steps": STEPS, "hold_s": 0.0, "poll_s": 0.1})
    return params.model_copy(update={"gateway": gateway, "log": log, "release": release})
