"""The floors: an import goes to a lower floor, never up, never in a circle, and the promises of the layout."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dlcli"

# module or folder -> floor. A folder's files may import each other.
FLOORS = {
    "errors": 1, "files": 1, "spec": 1, "options": 1, "seeds": 1, "registry": 1, "layers": 1,
    "config": 2, "models": 2, "data": 2, "tasks": 2, "training.devices": 2, "training.optimizers": 2,
    "training.schedules": 2, "training.checkpoint": 2,
    "runs": 3,
    "experiment": 4, "summary": 4, "gradcheck": 5,
    "evaluation": 5, "prediction": 5, "estimate": 5,
    "export": 6,
    "training.state": 5, "training.saver": 6, "training.provenance": 5, "training.loop": 7,
    "cli": 8,
}  # fmt: skip
# These two rest on nothing but errors and spec, which are the ground.
GROUND = {"errors", "spec"}


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if not name.endswith("__init__") and name != "__main__":
            found[name] = path
    return found


def imports(path: Path, names: set[str]) -> set[str]:
    """The project's modules that a file imports, at module level or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "dlcli":
            base = node.module.removeprefix("dlcli").removeprefix(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".removeprefix(".")
                found.add(full if full in names else base)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("dlcli.") for a in node.names if a.name.startswith("dlcli.")}
    return {name for name in found if name in names}


def room(module: str) -> str:
    """The entry of FLOORS that a module belongs to."""
    return module if module in FLOORS else module.split(".")[0]


def test_every_module_has_a_floor() -> None:
    assert {room(name) for name in modules()} == set(FLOORS)


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_go_down(module: str) -> None:
    names = set(modules())
    for target in imports(modules()[module], names):
        same_folder = module.split(".")[0] == target.split(".")[0]
        lower = FLOORS[room(target)] < FLOORS[room(module)]
        assert lower or (same_folder and FLOORS[room(target)] <= FLOORS[room(module)]) or target in GROUND, (
            f"{module} (floor {FLOORS[room(module)]}) imports {target} (floor {FLOORS[room(target)]})"
        )


def test_no_circles() -> None:
    names = set(modules())
    graph = {name: imports(path, names) - {name} for name, path in modules().items()}
    while graph:
        leaves = [name for name, targets in graph.items() if not targets & graph.keys()]
        assert leaves, f"these import each other in a circle: {sorted(graph)}"
        for name in leaves:
            del graph[name]


def test_only_the_command_line_knows_typer_and_rich_and_only_summary_knows_pandas() -> None:
    for name, path in modules().items():
        text = path.read_text()
        if not name.startswith("cli."):
            assert not re.search(r"^\s*(import|from) (typer|rich)\b", text, re.M), name
            assert not re.search(r"\bprint\(", text), f"{name} prints"
        elif name != "cli.output":
            assert not re.search(r"^\s*(import|from) rich\b", text, re.M), name
        if name != "summary":
            assert not re.search(r"^\s*(import|from) pandas\b", text, re.M), name


def test_nothing_unpickles_or_evaluates_text() -> None:
    banned = r"\b(pickle|joblib|dill|torch\.load|torch\.jit|yaml|allow_pickle=True|eval\(|exec\()"
    for name, path in modules().items():
        code = re.sub(r'""".*?"""|#.*', "", path.read_text(), flags=re.S)
        code = re.sub(r"\.eval\(\)", "", code)
        assert not re.search(banned, code), name


def test_architecture_names_every_file() -> None:
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text()
    for path in modules().values():
        assert path.name in text, f"{path.name} is not in ARCHITECTURE.md"
