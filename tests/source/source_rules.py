"""Constructs that turn data into code: pickles, `eval`, a shell, SQL made of strings. A rule is a function over a syntax tree."""

import ast
from collections.abc import Callable, Iterator

PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
EVALUATED = {"eval", "exec", "compile", "__import__"}
UNSAFE_YAML = {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn"}
SQL_TEXT = {"sa.text", "sqlalchemy.text", "text"}
SQL_METHODS = {"execute", "exec_driver_sql", "executescript"}
TEMPORARY = {"tempfile.mktemp"}


def offences(source: str) -> set[str]:
    """Return what a module does that the rules forbid, as `line: rule`."""
    tree = ast.parse(source)
    return {f"{node.lineno}: {rule}" for node in ast.walk(tree) for rule, breaks in RULES.items() if breaks(node)}


def _name(node: ast.Call) -> str:
    return ast.unparse(node.func)


def _keyword(node: ast.Call, name: str) -> ast.expr | None:
    return next((keyword.value for keyword in node.keywords if keyword.arg == name), None)


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module:
        yield node.module


def imports_a_pickle(node: ast.AST) -> bool:
    return any(name.partition(".")[0] in PICKLES for name in _imported(node))


def unpickles(node: ast.AST) -> bool:
    """Loads arrays or weights with pickles allowed: numpy refuses them by default, torch must be told to."""
    if not isinstance(node, ast.Call):
        return False
    allowed, weights = _keyword(node, "allow_pickle"), _keyword(node, "weights_only")
    if allowed is not None and ast.unparse(allowed) != "False":
        return True
    return _name(node) == "torch.load" and (weights is None or ast.unparse(weights) != "True")


def evaluates(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in EVALUATED


def loads_unsafe_yaml(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and _name(node) in UNSAFE_YAML


def uses_a_shell(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    shell = _keyword(node, "shell")
    return _name(node) in SHELLS or (shell is not None and ast.unparse(shell) != "False")


def builds_sql(node: ast.AST) -> bool:
    """Passes a statement that was put together from strings; values belong in parameters."""
    if not (isinstance(node, ast.Call) and node.args):
        return False
    if _name(node) not in SQL_TEXT and _name(node).rpartition(".")[2] not in SQL_METHODS:
        return False
    statement = node.args[0]
    is_joined = isinstance(statement, ast.JoinedStr) and any(isinstance(part, ast.FormattedValue) for part in statement.values)
    is_added = isinstance(statement, ast.BinOp) and any(isinstance(part, ast.Constant) for part in ast.walk(statement))
    is_formatted = isinstance(statement, ast.Call) and _name(statement).endswith(".format")
    return is_joined or is_added or is_formatted


def trusts_remote_code(node: ast.AST) -> bool:
    trusted = _keyword(node, "trust_remote_code") if isinstance(node, ast.Call) else None
    return trusted is not None and ast.unparse(trusted) != "False"


def names_a_temporary_file(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and _name(node) in TEMPORARY


RULES: dict[str, Callable[[ast.AST], bool]] = {
    "imports a pickle": imports_a_pickle,
    "unpickles": unpickles,
    "evaluates": evaluates,
    "loads unsafe yaml": loads_unsafe_yaml,
    "uses a shell": uses_a_shell,
    "builds SQL": builds_sql,
    "trusts remote code": trusts_remote_code,
    "names a temporary file": names_a_temporary_file,
}
