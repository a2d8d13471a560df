"""Shared fixtures: the shipped params, and a small project that `dvc repro` has made. Marks and order of all tests."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from filelock import FileLock

from pipeline.params import Params, load_params
from tests.databases import database, postgres, state  # noqa: F401 (fixtures)
from tests.small_base import write_small_base

ROOT = Path(__file__).parents[1]
os.environ.pop("EVERGREEN_ENDS_WITH_PARENT", None)  # of make: tests start programs from threads that end before them
SERVERS = {"made", "tools", "postgres", "postgresql"}  # fixtures, and a kind of database
LONG = (  # files and folders below tests/ of more than a few seconds, in the order in which workers begin them
    "faults/test_drill.py",  # makes the project
    "monitoring/retrain/gate/test_candidate.py",  # this and the next ones do not need it
    "pipeline/stages/test_train_stages.py",
    "monitoring/monitor/test_service.py",
    "monitoring/retrain/test_simulation.py",
    "monitoring/retrain/test_retrain_drill.py",
    "evergreen/test_commands.py",
    "serving/loadtest/test_limit.py",
    "docs/test_readme_blocks.py",
    "serving/release/test_publish.py",
    "serving/release/test_frameworks.py",
    "serving/release/live/test_roll_back.py",
    "serving/release/live/test_swap.py",
    "serving/loadtest/test_run.py",
    "faults/zoo/test_zoo.py",
    "monitoring/retrain/test_turn.py",
    "pipeline/test_dvc.py",
    "serving/gateway/test_http.py",
    "evergreen/test_loop.py",
    "docs/test_notebook.py",
    "evergreen/api/test_training.py",
    "evergreen/api/test_estimator.py",
    "evergreen/api/test_model.py",
    "monitoring/alert_rules/test_end_to_end.py",
    "monitoring/local/test_watch.py",
    "monitoring/local/test_opt_in.py",
    "faults/watching/test_watch.py",
    "evergreen/test_bad_input.py",
    "pipeline/tracking/test_runs.py",
    "test_setup.py",
    "evergreen/test_hostile_text.py",
    "pipeline/runtime/test_classifier.py",
    "manifests/test_image_contents.py",
    "pipeline/session/test_quantise.py",
    "pipeline/stages/test_spread.py",
    "serving/release/test_model_repository.py",
    "serving/triton/test_client.py",
    "pipeline/stages/test_reference.py",
    "serving/jobs/test_workers.py",
    "monitoring/retrain/test_database_stopped.py",
    "manifests/test_drain.py",
    "serving/release/test_fetch_repository.py",
    "serving/prediction_log/test_writer.py",
    "monitoring/retrain/test_alerts_drill.py",
    "pipeline/learning/test_resume.py",
    "pipeline/learning/test_loop.py",
    "pipeline/learning/test_prefix_cache.py",
    "serving/jobs/test_callbacks.py",
    "monitoring/retrain/test_run_local.py",
    "pipeline/learning/test_accumulation.py",
    "pipeline/tuning/test_studies.py",
    "serving/triton/test_crippled.py",
    "manifests/test_triton_pod.py",
    "manifests/test_lifecycle.py",
    "monitoring/inbox/test_app.py",
    "monitoring/retrain/receiver",
    "serving/loadtest",
    "serving/processes",
    "test_dvc_graph.py",
    "docs/test_readme.py",
)
ALONE = (
    "faults/test_drill.py",
    "serving/loadtest/test_limit.py",
    "serving/loadtest/test_run.py",
    "serving/release/live/test_roll_back.py",
    "serving/release/live/test_swap.py",
    "serving/gateway/test_http.py",
)
SMALL_LABELS = ("track_order", "return_item", "damaged_item", "payment_failed")


class Project:
    """A copy of the working tree as a separate git repository, with its own home of state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "live"

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def params(self) -> Params:
        return load_params(self.folder / "params.yaml")

    def set(self, **sections: dict[str, Any]) -> None:
        """Change values of params.yaml."""
        values = yaml.safe_load((self.folder / "params.yaml").read_text())
        for name, section in sections.items():
            values[name] |= section
        (self.folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

    def run(self, *command: str, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in this project, without the caller's settings; `given` is its standard input."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("EVERGREEN_", "MLFLOW_", "DVC_"))}
        program = self.folder / ".venv" / "bin" / command[0]
        return subprocess.run(
            [str(program if program.exists() else command[0]), *command[1:]],
            cwd=self.folder,
            env=inherited | {"GIT_CONFIG_GLOBAL": os.devnull} | environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=1500,  # a whole dvc repro beside other workers on a slow machine
        )

    def must(self, *command: str, given: str = "", **environment: str) -> str:
        """Return the output of a program that has to succeed."""
        done = self.run(*command, given=given, **environment)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


def copy_project(folder: Path) -> Project:
    """Copy the tracked and new files of the working tree into a fresh git repository that shares our .venv."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    project = Project(folder)
    project.must("git", "init", "--quiet", "--initial-branch=main")
    project.must("git", "config", "user.email", "tests@example.org")
    project.must("git", "config", "user.name", "tests")
    commit(project, "as it is")
    return project


def commit(project: Project, message: str) -> None:
    """Commit everything in the project."""
    project.must("git", "add", "--all")
    project.must("git", "commit", "--quiet", "--message", message)


def copy_made(made: Project, folder: Path) -> Project:
    """Copy a made project so that a test may change it; the files of its MLflow runs are in the copy."""
    shutil.copytree(made.folder, folder, symlinks=True)
    copied = Project(folder)
    from pipeline.tracking.store import follow_moved_home  # MLflow takes two seconds to import, and few workers need it

    assert follow_moved_home(copied.home) == str(made.home / "mlartifacts")
    return copied


def make_small(project: Project) -> None:
    """Let `dvc repro` make a small model: two layers, four classes, four epochs."""
    corpus = (project / "data/support_desk.jsonl").read_text(encoding="utf-8")
    few = [line for line in corpus.splitlines() if json.loads(line)["label"] in SMALL_LABELS]
    (project / "data/few.jsonl").write_text("\n".join(few) + "\n", encoding="utf-8")
    base = write_small_base(project.folder.with_name(f"{project.folder.name}-base"), corpus)
    project.set(
        data={"source": "data/few.jsonl"},
        model={"base": str(base), "weights_sha256": "any", "lora_rank": 4},
        train={"epochs": 4},
        evaluate={"bootstrap_resamples": 50},
        session={"choice": "packed-onnxruntime-fp32", "rounds": 1, "timed_texts": 16},  # the same on every machine
    )
    commit(project, "a small model")
    project.must("dvc", "repro")


def shared_folder(factory: pytest.TempPathFactory, config: pytest.Config) -> Path:
    """Return the temporary folder of the run, which all workers of pytest-xdist share."""
    folder = factory.getbasetemp()
    return folder.parent if hasattr(config, "workerinput") else folder


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Return `folder` as `make` has filled it, in this worker or in another; its failure is the failure of all."""
    done, failed = folder.with_name(f"{folder.name}.done"), folder.with_name(f"{folder.name}.failed")
    with FileLock(f"{folder}.lock"):
        if failed.exists():
            pytest.fail(f"{folder.name} could not be made: {failed.read_text()}")
        if not done.exists():
            folder.mkdir()
            try:
                make(folder)
            except BaseException as error:
                failed.write_text(repr(error))
                raise
            done.touch()
    return folder


def needs(item: pytest.Item) -> set[str]:
    """Return the fixtures that a test asks for, with the kind of database it runs on."""
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    fixtures = item.fixturenames if isinstance(item, pytest.Function) else []
    return {*fixtures, str(parameters.get("database"))}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `make test-fast` leaves out, and put the long files first: each of them keeps a worker busy."""
    if moved := [name for name in (*LONG, *ALONE) if not (ROOT / "tests" / name).exists()]:
        raise pytest.UsageError(f"tests/conftest.py names files that do not exist: {', '.join(moved)}")
    order = {}
    for item in items:
        file = item.path.relative_to(ROOT / "tests").as_posix()
        order[item] = next((number for number, name in enumerate(LONG) if file.startswith(name)), len(LONG))
        if needs(item) & SERVERS:
            item.add_marker("server")
        if order[item] < len(LONG):
            item.add_marker("slow")
    items.sort(key=order.__getitem__)


@pytest.fixture(autouse=True)
def _one_load_at_a_time(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let tests that load the machine wait for each other."""
    if not request.path.relative_to(ROOT / "tests").as_posix().startswith(ALONE):
        yield
        return
    with FileLock(shared_folder(tmp_path_factory, request.config) / "load.lock"):
        yield


@pytest.fixture(autouse=True)
def _logging_as_at_start() -> Iterator[None]:
    """Forget how an earlier test, or a command that it ran in this process, configured structlog: lines go to standard output."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def pytest_configure() -> None:
    """Make Ctrl-C work in tests and their children, also where they were started in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def params() -> Params:
    """Return params.yaml as it is shipped."""
    return load_params(ROOT / "params.yaml")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a fresh project in which nothing has run."""
    return copy_project(tmp_path)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Project:
    """Return a project whose small model `dvc repro` has made, of four classes. Tests only read it."""
    folder = shared_folder(tmp_path_factory, request.config) / "made"
    return Project(made_once(folder, lambda folder: make_small(copy_project(folder))))


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Return the file of an empty MLflow store, to be copied into a fresh home: to create one takes MLflow seconds."""

    def create(folder: Path) -> None:
        import mlflow  # two seconds, and few workers need it

        mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()

    return made_once(shared_folder(tmp_path_factory, request.config) / "mlflow", create) / "mlflow.db"


@pytest.fixture(scope="session", autouse=True)
def _home_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests away from the state of the user who runs them."""
    before = {name: os.environ.pop(name, None) for name in ("EVERGREEN_HOME", "MLFLOW_TRACKING_URI", "EVERGREEN_STATE_URL")}
    os.environ["EVERGREEN_HOME"] = str(tmp_path_factory.mktemp("home"))
    yield
    del os.environ["EVERGREEN_HOME"]
    os.environ.update({name: value for name, value in before.items() if value is not None})
