"""Draw the marked section of docs/architecture.md from the code: `python -m tests.architecture` rewrites it."""

import ast
from collections import Counter, defaultdict
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import grimp

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/architecture.md"
BEGIN, END = "<!-- drawn from the code by: make architecture -->", "<!-- end of the drawn part -->"
PACKAGES = ("evergreen", "monitoring", "serving", "state", "pipeline")  # as in the layers of pyproject.toml
# These stand above the folders of their package; the other modules next to them are its base.
ENTRY_POINTS = {"pipeline.frameworks", "serving.serve"}

Imports = Mapping[str, set[str]]  # from a node to the nodes whose modules it imports


class Folder(NamedTuple):
    """A folder of the code, with the first paragraph of its docstring."""

    name: str  # dotted
    purpose: str
    modules: int  # without `__init__`


def folder_of(module: str) -> str:
    """Return the dotted folder that a module, or a package's `__init__`, is in."""
    return module if (ROOT / module.replace(".", "/")).is_dir() else module.rpartition(".")[0]


def read_purpose(folder: str) -> str:
    """Return the first paragraph of the folder's docstring in one line; empty when there is none."""
    tree = ast.parse((ROOT / folder.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))
    return " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())


def read_graph() -> grimp.ImportGraph:
    """Return the import graph of all packages."""
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def read_folders(graph: grimp.ImportGraph) -> list[Folder]:
    """Return every folder, by package from top to bottom."""
    modules = Counter({folder_of(module): 0 for module in graph.modules})
    modules.update(folder_of(module) for module in graph.modules if folder_of(module) != module)
    names = sorted(modules, key=lambda name: (PACKAGES.index(name.split(".")[0]), name))
    return [Folder(name, read_purpose(name), modules[name]) for name in names]


def read_imports(graph: grimp.ImportGraph) -> dict[str, set[str]]:
    """Return which folder imports which. An entry point counts as a node by itself."""
    imports: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules:
        node = _node(module)
        imports[node] |= {_node(imported) for imported in graph.find_modules_directly_imported_by(module)} - {node}
    return imports


def reduce_imports(imports: Imports) -> dict[str, set[str]]:
    """Return the imports that do not follow from others; raises `graphlib.CycleError` when there is a cycle."""
    reached: dict[str, set[str]] = {}
    for node in TopologicalSorter(imports).static_order():
        reached[node] = imports[node].union(*(reached[imported] for imported in imports[node]))
    return {node: direct - set().union(*(reached[imported] for imported in direct)) for node, direct in imports.items()}


def draw(imports: Imports) -> str:
    """Return a Mermaid flowchart with a box for each package and an arrow for each import."""
    lines = ["flowchart TB"]
    for package in PACKAGES:
        nodes = sorted(node for node in imports if node.split(".")[0] == package)
        lines += [f"  subgraph {package}_[{package}]", *(f"    {_id(node)}[{_label(node)}]" for node in nodes), "  end"]
    lines += [f"  {_id(node)} --> {_id(imported)}" for node in sorted(imports) for imported in sorted(imports[node])]
    return "\n".join(lines)


def render() -> str:
    """Return the drawn part of the page, with its marks."""
    graph = read_graph()
    rows = [f"| `{folder.name.replace('.', '/')}/` | {folder.purpose} | {folder.modules} |" for folder in read_folders(graph)]
    table = "\n".join(["| folder | purpose | modules |", "|---|---|---|", *rows])
    return f"{BEGIN}\n{table}\n\n```mermaid\n{draw(reduce_imports(read_imports(graph)))}\n```\n{END}"


def replace_drawn_part(page: str, drawn: str) -> str:
    """Return the page with its marked section replaced."""
    before, _, rest = page.partition(BEGIN)
    return before + drawn + rest.partition(END)[2]


def _node(module: str) -> str:
    return module if module in ENTRY_POINTS else folder_of(module)


def _id(node: str) -> str:
    return node.replace(".", "_")


def _label(node: str) -> str:
    """Return the path inside the package, quoted for Mermaid, in which slashes next to brackets draw other shapes."""
    package, _, rest = node.replace(".", "/").partition("/")
    return f'"{package}/*.py"' if not rest else f'"{rest}.py"' if node in ENTRY_POINTS else f'"{rest}/"'


def main() -> None:
    """Rewrite the marked section of the page."""
    PAGE.write_text(replace_drawn_part(PAGE.read_text(encoding="utf-8"), render()), encoding="utf-8")


if __name__ == "__main__":
    main()
