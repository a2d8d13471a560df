"""The init step of the Triton pod: it fetches complete, verified models or nothing, and can be killed anywhere."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import NamedTuple

import fsspec
import pytest
from fsspec.callbacks import Callback
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import EXIT_BAD_INPUT, EXIT_MISSING_TOOL, EXIT_REFUSED, InputError, RefusedError, ToolError
from serving.release import fetch_repository
from serving.release.fetch_repository import (
    CHAMPION,
    SMALL_BYTES,
    STAGING,
    Fetched,
    fetch,
    open_store,
    released_versions,
    valid_names,
)
from serving.release.manifest import LINEAGE, MANIFEST, SIGNATURE, describe_files, file_digest, read_verified
from serving.release.signature import Statement, sign, write_bundle
from serving.release.signing_keys import signing_key, trusted_folder, trusted_keys
from tests.conftest import Project
from tests.http_servers import serving_in_thread

ROOT = Path(__file__).parents[3]


def put_model(store: Path, version: int, weights: bytes = b"weights") -> Path:
    """Write a small model folder with the layout of a published one."""
    folder = store / f"intent-{version}"
    (folder / "1/runtime").mkdir(parents=True)
    (folder / "config.pbtxt").write_text('backend: "python"\n')
    (folder / "1/model.onnx").write_bytes(weights * 1000)
    (folder / "1/runtime/__init__.py").write_text("")
    (folder / MANIFEST).write_text(json.dumps(describe_files(folder)))
    (folder / LINEAGE).write_text("{}")
    sign(folder, folder.name, signing_key(store.parent))
    return folder


def release(store: Path, *versions: int) -> None:
    (store / CHAMPION).write_text(json.dumps({"versions": versions}))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two released models on a volume."""
    folder = tmp_path / "store"
    put_model(folder, 7)
    put_model(folder, 8, b"others")
    release(folder, 7, 8)
    return folder


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "models"


class Waits(NamedTuple):
    """A sleep that only records its length."""

    seconds: list[float]

    def __call__(self, wait_s: float) -> None:
        self.seconds.append(wait_s)


def fetch_into(url: str | Path, to: Path, waits: Waits | None = None) -> Fetched:
    trusted = trusted_keys(trusted_folder(to.parent))
    return fetch(open_store(str(url), attempts=3, wait_s=0.5, sleep=waits or Waits([])), to, trusted)


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return bytes and modification time of every file."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def test_the_released_models_are_fetched_and_nothing_else(store: Path, to: Path) -> None:
    put_model(store, 9)
    assert fetch_into(store, to) == Fetched([7, 8], [7, 8], [])
    assert sorted(path.name for path in to.iterdir()) == [CHAMPION, "intent-7", "intent-8"]
    assert json.loads((to / CHAMPION).read_text()) == {"versions": [7, 8]}
    for name in ("intent-7", "intent-8"):
        assert read_verified(to / name) == read_verified(store / name)


def test_a_model_whose_manifest_has_no_sizes_is_fetched_whole(store: Path, to: Path) -> None:
    folder = store / "intent-7"
    (folder / "1/model.onnx").write_bytes(bytes(fetch_repository.SMALL_BYTES + 1))
    (folder / MANIFEST).write_text(json.dumps({"files": describe_files(folder)["files"]}))
    sign(folder, folder.name, signing_key(store.parent))
    assert fetch_into(store, to).added == [7, 8]


def test_only_files_of_the_manifest_are_fetched(store: Path, to: Path) -> None:
    (store / "intent-7/1/extra.py").write_text("import os")
    fetch_into(store, to)
    assert not (to / "intent-7/1/extra.py").exists()


def test_a_second_run_changes_nothing_and_downloads_nothing(store: Path, to: Path) -> None:
    fetch_into(store, to)
    before = content(to)
    for path in store.rglob("*"):
        if path.is_file() and path.name not in (CHAMPION, MANIFEST, SIGNATURE):
            path.unlink()
    assert fetch_into(store, to) == Fetched([7, 8], [], [])
    assert content(to) == before


def test_a_model_that_is_no_longer_released_is_removed(store: Path, to: Path) -> None:
    fetch_into(store, to)
    put_model(store, 9)
    release(store, 8, 9)
    assert fetch_into(store, to) == Fetched([8, 9], [9], ["intent-7"])
    assert sorted(path.name for path in to.iterdir()) == [CHAMPION, "intent-8", "intent-9"]


def test_a_store_in_memory_is_read_by_its_url(store: Path, to: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(store), "/whole", recursive=True)
    try:
        assert fetch_into("memory://whole", to).added == [7, 8]
    finally:
        memory.rm("/whole", recursive=True)
    assert read_verified(to / "intent-8") == read_verified(store / "intent-8")


def test_a_model_of_the_real_pipeline_arrives_as_it_was_packed(made: Project, tmp_path: Path, to: Path) -> None:
    packaged = Path(shutil.copytree(made / "artifacts/package", tmp_path / "store/intent-1"))
    sign(packaged, packaged.name, signing_key(tmp_path))
    release(tmp_path / "store", 1)
    assert fetch_into(tmp_path / "store", to).added == [1]
    assert read_verified(to / "intent-1") == read_verified(made / "artifacts/package")


@pytest.mark.parametrize("name", ["config.pbtxt", "1/model.onnx"])
def test_an_altered_file_is_refused_and_named(name: str, store: Path, to: Path) -> None:
    (store / "intent-8" / name).write_bytes((store / "intent-8" / name).read_bytes()[:-1] + b"!")
    with pytest.raises(RefusedError, match="SHA-256") as refused:
        fetch_into(store, to)
    assert refused.value.where.endswith(f"intent-8/{name}")
    assert not (to / "intent-8").exists()
    assert not (to / CHAMPION).exists()


@pytest.mark.parametrize("name", ["1/model.onnx", MANIFEST])
def test_a_missing_file_is_refused_at_once(name: str, store: Path, to: Path) -> None:
    (store / "intent-7" / name).unlink()
    waits = Waits([])
    with pytest.raises(RefusedError) as refused:
        fetch_into(store, to, waits)
    assert refused.value.where.endswith(f"intent-7/{name}")
    assert waits.seconds == []
    assert not (to / "intent-7").exists()


@pytest.mark.parametrize("text", ["", '{"files": {', "{}", "[]", '{"files": 1}', '{"files": {}}', "[" * 100_000])
def test_a_damaged_manifest_is_refused(text: str, store: Path, to: Path) -> None:
    (store / "intent-7" / MANIFEST).write_text(text)
    with pytest.raises(RefusedError, match="damaged"):
        fetch_into(store, to)


@pytest.mark.parametrize(
    "name",
    [
        "../escaped",
        "1/../../escaped",
        "/escaped",
        "..",
        ".",
        "",
        "1//x",
        "1\\x",
        ".hidden",
        "a\0b",
        "1/",
        "a?b",
        "a#b",
        "%2e%2e/x",
    ],
)
def test_a_manifest_cannot_name_a_file_outside_of_its_folder(name: str, store: Path, to: Path) -> None:
    (store / "escaped").write_text("reached")
    manifest = json.loads((store / "intent-7" / MANIFEST).read_text())
    manifest["files"][name] = "0" * 64
    (store / "intent-7" / MANIFEST).write_text(json.dumps(manifest))
    digests = {MANIFEST: file_digest(store / "intent-7" / MANIFEST), name: "0" * 64}
    (store / "intent-7" / SIGNATURE).write_text(write_bundle(Statement("intent-7", digests), signing_key(store.parent)))
    before = sorted(to.parent.rglob("*"))
    with pytest.raises(RefusedError, match=r"not a valid file name|of a kind that no package") as refused:
        fetch_into(store, to)
    assert refused.value.exit_code == EXIT_REFUSED
    assert sorted(to.parent.rglob("*")) == before


@given(st.sets(st.text(), min_size=1))
def test_any_names_in_a_manifest_stay_inside_or_are_refused(files: set[str]) -> None:
    try:
        names = valid_names(files, "store")
    except RefusedError:
        return
    folder = Path("/models/intent-1")
    assert all(os.path.normpath(folder / name) == str(folder / name) for name in names)


def test_a_name_cannot_be_a_file_and_a_folder() -> None:
    with pytest.raises(RefusedError):
        valid_names(("1", "1/model.py"), "store")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        *(f'{{"versions": {wrong}}}' for wrong in ("[]", "7", '["7"]', "[true]", "[0]", "[-1]", "[7, 7]", "[7.0]")),
    ],
)
def test_a_champion_file_that_does_not_name_versions_is_refused(text: str) -> None:
    with pytest.raises(InputError) as refused:
        released_versions(text, CHAMPION)
    assert refused.value.exit_code == EXIT_BAD_INPUT


def test_a_champion_file_may_have_other_keys() -> None:
    assert released_versions('{"versions": [8, 7], "champion": 8}', CHAMPION) == [8, 7]


def test_a_store_where_nothing_was_released_says_so(tmp_path: Path, to: Path) -> None:
    with pytest.raises(InputError, match="nothing has been released"):
        fetch_into(tmp_path, to)


def test_a_folder_that_holds_other_things_is_left_alone(store: Path, to: Path) -> None:
    (to / "letters").mkdir(parents=True)
    with pytest.raises(InputError) as refused:
        fetch_into(store, to)
    assert refused.value.where == str(to / "letters")
    assert [path.name for path in to.iterdir()] == ["letters"]


def test_a_damaged_folder_of_the_target_is_replaced(store: Path, to: Path) -> None:
    fetch_into(store, to)
    (to / "intent-7/1/model.onnx").write_bytes(b"half")
    assert fetch_into(store, to) == Fetched([7, 8], [7], [])
    assert read_verified(to / "intent-7") == read_verified(store / "intent-7")


def test_a_version_never_changes_its_content(store: Path, to: Path) -> None:
    fetch_into(store, to)
    shutil.rmtree(store / "intent-7")
    put_model(store, 7, b"something else")
    local = read_verified(to / "intent-7")
    with pytest.raises(RefusedError, match="different content"):
        fetch_into(store, to)
    assert read_verified(to / "intent-7") == local


@pytest.mark.parametrize(
    "url", ["https://user:secret@store/models", "https://store/models?sig=secret", "s3://key:secret@bucket/m"]
)
def test_credentials_in_the_url_are_refused_and_not_repeated(url: str, to: Path) -> None:
    with pytest.raises(InputError) as refused:
        fetch_into(url, to)
    assert "secret" not in str(refused.value)


def test_an_unknown_protocol_is_a_missing_tool(to: Path) -> None:
    with pytest.raises(ToolError) as refused:
        fetch_into("carrier-pigeon://loft", to)
    assert refused.value.exit_code == EXIT_MISSING_TOOL


class Web(ThreadingHTTPServer):
    """A plain web server over a folder: no listings, `failures` answers of 503, and one file that stops half-way."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.failures, self.stalls_at = 0, ""
        self.halfway, self.let_go = threading.Event(), threading.Event()


class Handler(SimpleHTTPRequestHandler):
    """One request to `Web`."""

    server: Web

    def do_GET(self) -> None:
        if self.server.failures:
            self.server.failures -= 1
            self.send_error(503)
        elif self.path == self.server.stalls_at:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"half")
            self.wfile.flush()
            self.server.halfway.set()
            self.server.let_go.wait(timeout=60)
        else:
            super().do_GET()

    def list_directory(self, path: str | os.PathLike[str]) -> None:
        self.send_error(403)

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def web(store: Path) -> Iterator[Web]:
    """The store behind HTTP on loopback."""
    server = Web(store)
    with serving_in_thread(server):
        yield server
        server.let_go.set()


def address(server: Web) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_plain_http_without_listings_is_enough(web: Web, store: Path, to: Path) -> None:
    assert fetch_into(address(web), to).added == [7, 8]
    assert read_verified(to / "intent-7") == read_verified(store / "intent-7")


def test_a_store_that_fails_for_a_while_is_asked_again_after_growing_waits(web: Web, to: Path) -> None:
    web.failures = 2
    waits = Waits([])
    assert fetch_into(address(web), to, waits).added == [7, 8]
    assert waits.seconds == [0.5, 1.0]


def test_a_store_that_keeps_failing_is_given_up(web: Web, to: Path) -> None:
    web.failures = 1000
    waits = Waits([])
    with pytest.raises(ToolError, match="3 attempts") as refused:
        fetch_into(address(web), to, waits)
    assert refused.value.exit_code == EXIT_MISSING_TOOL
    assert waits.seconds == [0.5, 1.0]
    assert not to.exists()


@pytest.mark.parametrize("name", [CHAMPION, f"intent-7/{SIGNATURE}", f"intent-7/{MANIFEST}"])
def test_a_file_whose_size_nobody_has_signed_is_bounded(web: Web, store: Path, to: Path, name: str) -> None:
    path = store / name
    path.write_bytes(path.read_bytes() + b" " * SMALL_BYTES)
    for url in (store, f"http://127.0.0.1:{web.server_port}"):
        with pytest.raises(RefusedError, match=f"(?s){name}.*more than the {SMALL_BYTES} bytes"):
            fetch_into(url, to)


def test_a_file_without_end_is_given_up_before_it_fills_memory_or_disk(to: Path) -> None:
    url = f"memory://endless-{os.urandom(4).hex()}"
    opened = open_store(url, attempts=3, wait_s=0.5, sleep=Waits([]))
    read = 0

    def get_file(path: str, to: str, callback: Callback) -> None:
        nonlocal read
        while True:
            read += 2**16
            callback.relative_update(2**16)

    endless = SimpleNamespace(get_file=get_file)
    with pytest.raises(RefusedError, match="more than"):
        fetch(opened._replace(files=endless), to, trusted_keys(trusted_folder(to.parent)))
    assert read == SMALL_BYTES + 2**16


def test_a_file_that_http_does_not_have_is_refused_at_once(web: Web, store: Path, to: Path) -> None:
    (store / "intent-8/1/model.onnx").unlink()
    waits = Waits([])
    with pytest.raises(RefusedError, match="missing"):
        fetch_into(address(web), to, waits)
    assert waits.seconds == []


class StoppedBeforeLine:
    """A tracer that ends the program before the nth line of the module, as kill -9 would: no `except Exception` sees it."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def __call__(self, frame: FrameType, event: str, _argument: object) -> "StoppedBeforeLine | None":
        if frame.f_code.co_filename != fetch_repository.__file__:
            return None
        if event == "line":
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return self


def stopped_before_line(nth: int, store: Path, to: Path) -> bool:
    """Fetch until the nth line; returns False when the fetch ends before it."""
    traced = sys.gettrace()
    sys.settrace(StoppedBeforeLine(nth))
    try:
        fetch_into(store, to)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(traced)
    return False


def test_stopped_before_any_line_it_leaves_whole_models_and_the_next_run_completes_them(
    store: Path, to: Path, tmp_path: Path
) -> None:
    put_model(store, 6)
    release(store, 6, 7)
    fetch_into(store, tmp_path / "older")  # what an earlier release left
    release(store, 7, 8)
    lines = 0
    while True:
        shutil.copytree(tmp_path / "older", to)
        if not stopped_before_line(lines, store, to):
            break
        lines += 1
        for version in json.loads((to / CHAMPION).read_text())["versions"]:
            read_verified(to / f"intent-{version}")
        for folder in to.glob("intent-*"):
            assert read_verified(folder) == read_verified(store / folder.name)
        fetch_into(store, to)
        assert sorted(path.name for path in to.iterdir()) == [CHAMPION, "intent-7", "intent-8"]
        assert json.loads((to / CHAMPION).read_text()) == {"versions": [7, 8]}
        shutil.rmtree(to)
    assert lines > 50


def command(store: str | Path, to: Path, attempts: int = 2, home: Path | None = None) -> list[str]:
    options = ["--from", str(store), "--to", str(to), "--trusted", str(trusted_folder(home or to.parent))]
    options += ["--attempts", str(attempts), "--wait-s", "0.01"]
    return [sys.executable, "-m", "serving.release.fetch_repository", *options]


def test_killed_in_the_middle_of_a_download_the_next_run_completes_it(web: Web, store: Path, to: Path) -> None:
    web.stalls_at = "/intent-8/1/model.onnx"
    running = subprocess.Popen(command(address(web), to), cwd=ROOT)
    assert web.halfway.wait(timeout=30)
    running.kill()
    assert running.wait() == -signal.SIGKILL
    web.let_go.set()
    assert sorted(path.name for path in to.iterdir()) == [STAGING, "intent-7"]
    assert fetch_into(store, to) == Fetched([7, 8], [8], [])
    assert sorted(path.name for path in to.iterdir()) == [CHAMPION, "intent-7", "intent-8"]


def test_stopped_in_the_middle_of_a_download_it_ends_with_143(web: Web, to: Path) -> None:
    web.stalls_at = "/intent-7/1/model.onnx"
    running = subprocess.Popen(command(address(web), to), cwd=ROOT)
    assert web.halfway.wait(timeout=30)
    running.terminate()
    assert running.wait(timeout=30) == 128 + signal.SIGTERM
    web.let_go.set()


def corrupt(store: Path) -> None:
    (store / "intent-7/config.pbtxt").write_text("something else")


@pytest.mark.parametrize(
    ("prepare", "code"),
    [(lambda store: None, 0), (lambda store: (store / CHAMPION).unlink(), EXIT_BAD_INPUT), (corrupt, EXIT_REFUSED)],
    ids=["all is well", "nothing was released", "a file was altered"],
)
def test_the_command_ends_with_the_documented_codes(prepare, code: int, store: Path, to: Path) -> None:  # type: ignore[no-untyped-def]
    prepare(store)
    done = subprocess.run(command(store, to), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert ("what to do:" in done.stderr) == (code != 0)
    assert "Traceback" not in done.stderr


def test_a_target_that_cannot_be_written_is_an_error_without_a_traceback(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(command(store, tmp_path / "file/models", home=tmp_path), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == EXIT_MISSING_TOOL
    assert "Traceback" not in done.stderr
