"""A monitor without the models fetches the champion's reference from the model store, and reports failures."""

import json
import shutil
from pathlib import Path

import pytest

from monitoring.monitor.metrics import MonitorMetrics
from monitoring.monitor.references import References
from monitoring.monitor.service import MonitorService
from pipeline.errors import RefusedError
from pipeline.params import Params
from pipeline.reference_profile import save_reference
from serving.release import fetch_repository
from serving.release.manifest import MANIFEST, content_digest, describe_files, model_name
from serving.release.release_table import Release, add_release, promote
from state.database import open_state
from state.tables import windows
from tests.monitoring.homes import NOON, Gateway, log_rows
from tests.monitoring.monitor.test_service import rows_of, small_params, value  # noqa: F401 (small_params is a fixture)
from tests.monitoring.worlds import LABELS, World


def put_model(store: Path, version: int, **changed: bytes) -> Release:
    """Publish a folder to the store and return its release; `changed` files are altered after the manifest was written."""
    folder = store / model_name(version)
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.onnx").write_bytes(b"weights" * 1000)
    save_reference(folder / "reference.npz", World(version).reference(800))
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in sorted(LABELS.tolist(), reverse=True)))
    manifest = describe_files(folder)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    for name, content in changed.items():
        (folder / f"{name}.txt").write_bytes(content)
    return Release(version, content_digest(manifest), "champion")


def enter(home: Path, release: Release) -> None:
    with open_state(home) as engine, engine.begin() as connection:
        add_release(connection, release.version, release.content_digest)
        promote(connection, release.version)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def fetches(monitor: MonitorService) -> tuple[float, float]:
    """Return how many fetches succeeded and how many failed."""
    fetched, failed = (value(monitor, "monitor_reference_fetches_total", result=result) for result in ("fetched", "failed"))
    return fetched or 0.0, failed or 0.0


def test_after_a_promotion_the_monitor_fetches_the_reference_and_evaluates_waiting_rows(
    small_params: Params,  # noqa: F811
    home: Path,
    store: Path,
) -> None:
    enter(home, put_model(store, 1))
    monitor = MonitorService(small_params, home, lambda: NOON + 100, str(store))
    monitor.cycle()
    enter(home, put_model(store, 2))
    Gateway(home, "one").write(log_rows(World(8).rows(150), LABELS, version=2))
    while monitor.cycle():
        pass
    assert monitor.failed == ""
    assert [row[:2] for row in rows_of(home, windows, "version", "number")] == [(2, 1)]
    assert fetches(monitor) == (2, 0)
    assert {path.name for path in (home / "references/intent-2").iterdir()} == {"reference.npz", "labels.txt", MANIFEST}
    again = MonitorService(small_params, home, lambda: NOON + 100, str(store / "away"))  # another process finds it where it lies
    again.cycle()
    assert again.failed == ""
    assert fetches(again) == (0, 0)


def test_an_unavailable_store_is_retried_with_growing_pauses_and_each_cycle_fails_meanwhile(
    small_params: Params,  # noqa: F811
    home: Path,
    store: Path,
) -> None:
    enter(home, put_model(store, 2))
    store.rename(store.with_name("away"))
    Gateway(home, "one").write(log_rows(World(8).rows(150), LABELS, version=2))
    monitor, now = MonitorService(small_params, home, lambda: NOON + 100, str(store)), [1000.0]
    monitor._references = References(home, str(store), monitor.metrics.reference_fetch, lambda: now[0])
    for _ in range(60):  # each second
        monitor.cycle()
        now[0] += 1.0
        assert monitor.failed == "reference"
    assert value(monitor, "monitor_failures_total", part="reference") == 60
    assert fetches(monitor) == (0, 8)  # after 0, 1, 2, 4, 8, 16, 31 and 46 s
    assert value(monitor, "monitored_version") == 2
    assert value(monitor, "reference_rows", version="2") is None  # on which EvergreenReferenceMissing fires
    assert value(monitor, "monitor_last_success_timestamp_seconds") is None
    store.with_name("away").rename(store)
    now[0] += 15.0
    while monitor.cycle():
        pass
    assert monitor.failed == ""
    assert value(monitor, "reference_rows", version="2") == 800
    assert len(rows_of(home, windows)) == 1


def folder_of(release: Release, home: Path, store: Path) -> Path:
    return References(home, str(store), MonitorMetrics().reference_fetch).folder(release)


def test_a_file_that_was_altered_in_the_store_is_not_installed(home: Path, store: Path) -> None:
    release = put_model(store, 2, labels=b"other\n")
    with pytest.raises(RefusedError, match=r"labels\.txt: the file does not have the SHA-256"):
        folder_of(release, home, store)
    assert not (home / "references/intent-2").exists()


def test_a_folder_with_other_content_than_the_release_is_refused(home: Path, store: Path) -> None:
    release = put_model(store, 2)._replace(content_digest="0" * 64)
    with pytest.raises(RefusedError, match="intent-2: this is not the content that was released"):
        folder_of(release, home, store)


@pytest.mark.parametrize("sizes", [{}, {"reference.npz": 10**15, "labels.txt": 10**15}])
def test_a_store_cannot_raise_the_limit_by_the_sizes_of_its_manifest(
    monkeypatch: pytest.MonkeyPatch, home: Path, store: Path, sizes: dict[str, int]
) -> None:
    release = put_model(store, 2)
    path = store / "intent-2" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sizes": sizes}))
    monkeypatch.setattr(fetch_repository, "LARGE_BYTES", 1000)
    with pytest.raises(RefusedError, match=r"reference\.npz: the file has more than the 1000 bytes"):
        folder_of(release, home, store)


def test_a_version_without_a_reference_is_named_in_the_error(home: Path, store: Path) -> None:
    put_model(store, 2)
    folder = store / "intent-2"
    (folder / "reference.npz").unlink()
    manifest = describe_files(folder)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(RefusedError, match=r"names no reference\.npz"):
        folder_of(Release(2, content_digest(manifest), "champion"), home, store)


def test_an_incomplete_fetch_is_repeated(home: Path, store: Path) -> None:
    release = put_model(store, 2)
    half = folder_of(release, home, store)
    (half / MANIFEST).unlink()
    (half / "labels.txt").write_text("half")
    shutil.copytree(half, half.parent / ".fetching" / half.name)
    assert (folder_of(release, home, store) / "labels.txt").read_text() == (store / "intent-2/labels.txt").read_text()


def test_without_a_store_the_reference_is_in_the_live_folder(home: Path) -> None:
    references = References(home, "", MonitorMetrics().reference_fetch)
    assert references.folder(Release(3, "", "champion")) == home / "models/intent-3"
