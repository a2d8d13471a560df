"""What the repository ships: code without pickles or shells, no secrets, no symbolic links, unambiguous YAML."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.source_rules import offences

PACKAGES = ("evergreen", "monitoring", "pipeline", "serving", "state")
SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_\w{36}|\bhf_[A-Za-z]{34}\b"
    r"|\bsk-[A-Za-z0-9_-]{32}|\bxox[baprs]-[\w-]{10}|\bglpat-[\w-]{20}|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\."
)
TEXTS = {
    ".py",
    ".md",
    ".yaml",
    ".yml",
    ".toml",
    ".lock",
    ".json",
    ".jsonl",
    ".csv",
    ".txt",
    ".sh",
    ".cfg",
    ".ini",
    ".js",
    ".css",
    "",
}


@cache
def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_data_becomes_code(package: str) -> None:
    found = {str(path): offences(path.read_text(encoding="utf-8")) for path in (ROOT / package).rglob("*.py")}
    assert {path: rules for path, rules in found.items() if rules} == {}


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("import pickle", "imports a pickle"),
        ("from joblib import load", "imports a pickle"),
        ("np.load(path, allow_pickle=True)", "unpickles"),
        ("torch.load(path)", "unpickles"),
        ("torch.load(path, weights_only=False)", "unpickles"),
        ("eval(text)", "evaluates"),
        ("exec(text)", "evaluates"),
        ("yaml.load(text)", "loads unsafe yaml"),
        ("subprocess.run(line, shell=True)", "uses a shell"),
        ("os.system(line)", "uses a shell"),
        ("connection.execute(sa.text(f'SELECT {name}'))", "builds SQL"),
        ("connection.exec_driver_sql('SELECT ' + name)", "builds SQL"),
        ("sa.text('SELECT {}'.format(name))", "builds SQL"),
        ("AutoModel.from_pretrained(name, trust_remote_code=True)", "trusts remote code"),
        ("tempfile.mktemp()", "names a temporary file"),
    ],
)
def test_each_construct_would_be_noticed(source: str, rule: str) -> None:
    assert offences(source) == {f"1: {rule}"}


def test_what_is_safe_is_not_reported() -> None:
    safe = "np.load(p, allow_pickle=False); torch.load(p, weights_only=True); model.eval(); sa.text('SELECT 1'); re.compile('x')"
    assert offences(f"{safe}; subprocess.run(['ls']); yaml.safe_load(text); connection.execute(statement)") == set()


def test_no_file_of_the_repository_holds_a_secret() -> None:
    for path in tracked_files():
        if path.suffix in TEXTS:
            assert not SECRET.search(path.read_text(encoding="utf-8", errors="replace")), path


@pytest.mark.parametrize("text", ["-----BEGIN EC " + "PRIVATE KEY-----", "AKIA" + "A" * 16, "hf_" + "a" * 34, "ghp_" + "a" * 36])
def test_a_secret_would_be_noticed(text: str) -> None:
    assert SECRET.search(f'key = "{text}"')


def test_params_name_files_of_secrets_and_hold_none() -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    secret = re.compile(r"(token|secret|password|key)s?$")
    assert not [f"{section}.{name}" for section, keys in values.items() for name in keys if secret.search(name)]


def test_the_repository_holds_no_symbolic_link_and_no_workflow_of_a_forge() -> None:
    assert [path for path in tracked_files() if path.is_symlink()] == []
    assert not (ROOT / ".github/workflows").exists(), "a workflow pins its actions by hash: describe that in docs/security.md"


def test_yaml_repeats_no_key() -> None:
    """YAML takes the last of two equal keys in silence."""
    for path in tracked_files():
        if path.suffix in (".yaml", ".yml"):
            for document in yaml.compose_all(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader):
                check_keys(document, path)


def check_keys(node: yaml.Node | None, path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(map(str, keys))), f"{path}:{node.start_mark.line + 1} repeats a key"
        for _, value in node.value:
            check_keys(value, path)
    if isinstance(node, yaml.SequenceNode):
        for value in node.value:
            check_keys(value, path)
