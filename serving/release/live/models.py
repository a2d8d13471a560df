"""Load versions into a running Triton and unload those that nobody asks. A version is checked before anybody gets its answers."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from pipeline.errors import EvergreenError, InputError, RefusedError
from pipeline.params import Params, Serve
from pipeline.session.golden_answers import GoldenAnswers, read_golden
from serving.processes import Announce
from serving.release.live.folders import verified
from serving.release.live.load_check import find_problem
from serving.release.manifest import MANIFEST, model_name, repository
from serving.release.routing import read_routes
from serving.release.signature import read_signed
from serving.release.signing_keys import trusted_folder, trusted_keys
from serving.triton.client import drain, is_ready, key_file, load, ready_models, unload
from serving.triton.server import close_shared_memory

DRAIN_TIMEOUT_S = 30.0


def load_and_check(serve: Serve, home: Path, version: int, announce: Announce, *, in_use: bool) -> None:
    """Load a version and check its answers; raises `RefusedError` when they are not those of its package.

    A version that fails is unloaded again unless it is `in_use`: then a doubtful answer may be better than none, and one whose
    golden answers are right goes on though long texts are not answered.
    """
    model, folder = model_name(version), verified(home, version)
    golden, key = _golden(folder), _key(home, serve)
    if not is_ready(serve, [model]):
        load(serve, model, key)
        announce(f"{model} is loaded and warm")
    close_shared_memory(home, serve)
    problem = find_problem(serve, model, golden)
    if problem is None:
        announce(f"{model}: {len(golden.texts)} golden answers equal the offline ones; long texts are answered")
        return
    if in_use and not problem.is_golden:
        announce(f"{model} is not as it should be: {problem.what}")
        return
    if not in_use:
        unload(serve, model, key)
    do = "the old version still serves; make the package again on a machine like this one: .venv/bin/dvc repro -f package"
    raise RefusedError(model, problem.what, do)


def load_companions(serve: Serve, home: Path, version: int, announce: Announce) -> None:
    """Load the models that `serving.release.frameworks` packaged for this version; one that does not load is announced."""
    for model in (f"{model_name(version)}-torch", f"control-{version}"):
        if (repository(home) / model / MANIFEST).is_file() and not is_ready(serve, [model]):
            try:
                read_signed(repository(home) / model, trusted_keys(trusted_folder(home)))
                load(serve, model, _key(home, serve))
                close_shared_memory(home, serve)
                announce(f"{model} is loaded too")
            except EvergreenError as error:
                announce(f"{model} is not served: {error}")


def unload_unused(serve: Serve, home: Path, wanted: Callable[[], set[int]], quiet_s: float, announce: Announce) -> None:
    """Unload every version that is not wanted, after `quiet_s` without a request for it.

    A gateway that has not read the new routes still asks the old version; silence for two of its polls means that all have.
    `wanted` is asked again before each version goes: a roll-back may want it by now.
    """
    key, kept = _key(home, serve), wanted()
    for model in ready_models(serve, key):
        match = re.fullmatch(r"(?:intent|control)-(\d+)(?:-torch)?", model)
        if match is None or int(match[1]) in kept:
            continue
        if not drain(serve, model, quiet_s, DRAIN_TIMEOUT_S):
            announce(
                f"{model} still gets requests after {DRAIN_TIMEOUT_S:.0f} s, from a client that names it; unloading it anyway"
            )
        if int(match[1]) in wanted():
            continue
        unload(serve, model, key)
        announce(f"{model} is unloaded")


def loaded_versions(engine: sa.Engine) -> set[int]:
    """Return the versions that are to be loaded now."""
    with engine.connect().execution_options(reads_only=True) as connection, connection.begin():
        return read_routes(connection).loaded(time.time())


def quiet_s(params: Params) -> float:
    """Return for how long a version must get no request until every gateway has surely read the new routes."""
    return 2 * params.gateway.routing_poll_ms / 1000


def _golden(folder: Path) -> GoldenAnswers:
    try:
        return read_golden(folder)
    except (OSError, ValueError) as error:
        what = f"its package has no golden answers: {error}"
        raise RefusedError(str(folder), what, "make and publish a new package: make repro") from None


def _key(home: Path, serve: Serve) -> str:
    path = key_file(home, serve)
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        what = "a Triton answers, but its admin key is missing"
        raise InputError(str(path), what, "start Triton with make serve, or set EVERGREEN_TRITON_KEY_FILE") from None
