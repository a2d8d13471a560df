"""What the repository ships: code without pickles or shells, no secrets, no symbolic links, unambiguous YAML."""

import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.source.source_rules import offences
from tests.source.style_rules import Fault, markdown_faults, shell_faults, yaml_faults

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
    rules_by_file = {str(path): offences(path.read_text(encoding="utf-8")) for path in (ROOT / package).rglob("*.py")}
    assert {path: rules for path, rules in rules_by_file.items() if rules} == {}


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
    files = [path for path in tracked_files() if path.suffix in (".yaml", ".yml")]
    documents = [
        (path, document)
        for path in files
        for document in yaml.compose_all(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    ]
    assert [fault for path, document in documents for fault in repeated_keys(document, path)] == []
    repeated = yaml.compose("a: {b: [{c: 1, d: 2, c: 3}]}", Loader=yaml.SafeLoader)
    assert list(repeated_keys(repeated, Path("x.yaml"))) == ["x.yaml:1 repeats a key"]


def style_of(path: Path) -> Callable[[str], Iterable[Fault]] | None:
    """Return the rules of a file, or None when it has none."""
    with path.open("rb") as file:
        if file.read(2) == b"#!":
            return shell_faults
    return {".md": markdown_faults, ".yaml": yaml_faults, ".yml": yaml_faults, ".sh": shell_faults}.get(path.suffix)


def test_yaml_markdown_and_shell_follow_their_style() -> None:
    found, kinds = [], set()
    for path in tracked_files():
        if rules := style_of(path):
            kinds.add(rules)
            faults = rules(path.read_text(encoding="utf-8"))
            found += [f"{path.relative_to(ROOT)}:{line}: {rule}" for line, rule in faults]
    assert found == []
    assert kinds == {yaml_faults, markdown_faults, shell_faults}


def test_bash_can_parse_every_script() -> None:
    scripts = [path for path in tracked_files() if style_of(path) is shell_faults]
    assert scripts
    for path in scripts:
        assert subprocess.run(["bash", "-n", str(path)], capture_output=True).stderr == b""


BASH = "#!/usr/bin/env bash\nset -euo pipefail\n"
FAULTY: list[tuple[Callable[[str], Iterable[Fault]], str, Fault]] = [
    (yaml_faults, "a: 1 \n", (1, "spaces at the end of a line")),
    (yaml_faults, "a: 1\n\n", (3, "empty lines at the end")),
    (yaml_faults, "a: 1", (1, "the last line does not end")),
    (yaml_faults, "a: 'b\tc'\n", (1, "a tab")),
    (yaml_faults, "a:\n   b: 1\n", (2, "indented by an odd number of spaces")),
    (yaml_faults, "a: 1 #why\n", (1, "no space after #")),
    (yaml_faults, "a: yes\n", (1, "a word that old parsers read as a boolean")),
    (yaml_faults, "a:\n  - Off # why\n", (2, "a word that old parsers read as a boolean")),
    (markdown_faults, "# A\n\n```\nx\n```\n", (3, "a code block without a language")),
    (markdown_faults, "# A\n\n```text\nx\n", (5, "a code block without an end")),
    (markdown_faults, "# A\n\n### B\n", (3, "a heading that skips a level")),
    (markdown_faults, "# A\n\n##B\n", (3, "a heading that is not `# words`")),
    (markdown_faults, "# A\n\n## B:\n", (3, "a heading that is not `# words`")),
    (markdown_faults, "# A\n\nx\n## B\n", (4, "no empty line above a heading")),
    (markdown_faults, "# A\n\n\nx\n", (3, "two empty lines")),
    (markdown_faults, "## A\n", (1, "0 titles")),
    (shell_faults, "#!/bin/sh\nset -euo pipefail\n", (1, "no line `#!/usr/bin/env bash`")),
    (shell_faults, "#!/usr/bin/env bash\nls\n", (1, "the first command is not `set -euo pipefail`")),
    (shell_faults, f"{BASH}rm $file\n", (3, "an unquoted expansion")),
    (shell_faults, f"{BASH}echo `ls`\n", (3, "backticks: write $(…)")),
]


@pytest.mark.parametrize(("rules", "text", "fault"), FAULTY)
def test_each_fault_of_style_would_be_noticed(rules: Callable[[str], Iterable[Fault]], text: str, fault: Fault) -> None:
    assert fault in list(rules(text))


def test_good_style_is_not_reported() -> None:
    assert list(yaml_faults("a: 'yes' # why\nb: |\n   odd #y\n\n   on\nc: {d: 1}\n")) == []
    assert list(markdown_faults("# A\n\n```text\n# b\n\n\n```\n\n## C\n")) == []
    assert list(shell_faults(f'{BASH}cd "$(dirname "$0")/.."\n')) == []


def repeated_keys(node: yaml.Node | None, path: Path) -> Iterator[str]:
    """Yield where a mapping holds a key twice."""
    children = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        keys = [str(key.value) for key, _ in node.value]
        if len(keys) != len(set(keys)):
            yield f"{path}:{node.start_mark.line + 1} repeats a key"
        children = [value for _, value in node.value]
    for child in children:
        yield from repeated_keys(child, path)
