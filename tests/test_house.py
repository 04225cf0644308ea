"""The floors of ARCHITECTURE.md: imports go only to lower floors, without cycles; and the rules of the layout."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dlcli"

# Folder -> floor. The files of a folder may import each other.
FLOORS = {
    "core": 1,
    "config": 2, "models": 2, "tasks": 2, "data": 2,
    "runs": 3, "compute": 3,
    "checkpoints": 4,
    "experiment": 5,
    "evaluation": 6, "gradcheck": 6,
    "training": 7,
    "export": 8, "checks": 8, "plots": 8, "sweeps": 8, "analysis": 8,
    "report": 9,
    "cli": 10,
}  # fmt: skip


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
    """The entry of FLOORS to which a module belongs."""
    return module.split(".")[0]


def test_every_module_has_a_floor() -> None:
    assert {room(name) for name in modules()} == set(FLOORS)


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_go_down(module: str) -> None:
    names = set(modules())
    for target in imports(modules()[module], names):
        assert room(target) == room(module) or FLOORS[room(target)] < FLOORS[room(module)], (
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


def test_only_the_command_line_knows_typer_and_rich_and_only_the_frame_knows_pandas() -> None:
    for name, path in modules().items():
        text = path.read_text()
        if not name.startswith("cli."):
            assert not re.search(r"^\s*(import|from) (typer|rich)\b", text, re.M), name
            assert not re.search(r"\bprint\(", text), f"{name} prints"
        elif name != "cli.progress":
            assert not re.search(r"^\s*(import|from) rich\b", text, re.M), name
        if name != "runs.frame":
            assert not re.search(r"^\s*(import|from) pandas\b", text, re.M), name


def test_only_data_knows_how_rows_are_stored() -> None:
    """Other folders get batches; tests/test_rows_protocol.py trains, evaluates and exports with a different storage."""
    names = set(modules())
    assert {name for name, path in modules().items() if "data.rows" in imports(path, names)} == {
        "data.batches",
        "data.dataset",
        "data.prepare",
    }


# Names that execute their input, or write to a path in it, including everything below them.
BANNED = (
    "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "ruamel", "runpy",
    "code", "codeop", "imp", "ctypes",
    "torch.load", "torch.jit", "torch.hub", "torch.package", "torch.serialization", "torch.export.load",
    "torch.export.pt2_archive", "torch.distributed.checkpoint", "torch.distributed.rpc",
    "torch.distributed.all_gather_object", "torch.distributed.gather_object", "torch.distributed.scatter_object_list",
    "torch.distributed.broadcast_object_list", "torch.distributed.send_object_list",
    "torch.distributed.recv_object_list", "torch.utils.model_zoo", "torch.utils.cpp_extension",
    "numpy.lib.format", "numpy.f2py", "pandas.read_pickle", "pandas.eval", "pandas.read_hdf",
    "builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__", "builtins.breakpoint",
    "importlib.import_module", "importlib.__import__", "importlib.machinery", "importlib.util.spec_from_file_location",
    "importlib.util.module_from_spec", "importlib.reload", "pkgutil", "pydoc.locate",
    "os.system", "os.popen", "os.exec*", "os.spawn*", "os.posix_spawn*", "os.startfile", "pty", "subprocess.getoutput",
    "subprocess.getstatusoutput", "asyncio.create_subprocess_shell", "shutil.unpack_archive",
)  # fmt: skip
# Arguments that decide whether a call is safe: the only value that they may have.
ARGUMENTS = {"allow_pickle": False, "weights_only": True, "shell": False, "trust_remote_code": False}
# Calls that must give the argument, because the default is unsafe or was unsafe in old versions.
MUST_SAY = {"numpy.load": "allow_pickle", "torch.load": "weights_only"}
# Methods, of any object.
METHODS = ("extractall", "to_pickle", "read_pickle", "add_safe_globals")

# (module, name): why it is allowed there.
ALLOWED = {
    (
        "config.own_code",
        "importlib.import_module",
    ): "the user's own model, once its place was looked at; ours by name",
    ("cli.main", "importlib.import_module"): "a command of COMMANDS",
    ("__init__", "importlib.import_module"): "a public name of _PUBLIC",
    ("checkpoints.foreign", "torch.load"): "weights that the user names, with weights_only: nothing is executed",
    ("export.runtime", "torch.export.load"): "opens the .pt2 that its parent has just written, and no other",
    ("runs.sample_answers", "numpy.lib.format"): "for the one below",
    ("runs.sample_answers", "numpy.lib.format.write_array"): "with allow_pickle=False",
}


def dangers(source: str) -> set[str]:
    """The places in a file that could execute their input: names in BANNED, arguments, methods."""
    tree = ast.parse(source)
    names = {name: f"builtins.{name}" for name in ("eval", "exec", "compile", "__import__", "breakpoint", "getattr")}
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                found.add(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                found.add(f"{node.module}.{alias.name}")

    def dotted(node: ast.AST) -> str | None:
        if isinstance(node, ast.Name):
            return names.get(node.id)
        if isinstance(node, ast.Attribute):
            before = dotted(node.value)
            return before and f"{before}.{node.attr}"
        if isinstance(node, ast.Call) and dotted(node.func) == "builtins.getattr" and len(node.args) > 1:
            what, before = node.args[1], dotted(node.args[0])
            return before and f"{before}.{what.value if isinstance(what, ast.Constant) else '*'}"
        return None

    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute | ast.Call) and not isinstance(
            getattr(node, "ctx", None), ast.Store
        ):
            found.add(dotted(node) or "")
        if isinstance(node, ast.Attribute) and node.attr in METHODS:
            found.add(f".{node.attr}")
        if isinstance(node, ast.Call):
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            for argument, right in ARGUMENTS.items():
                value = given.get(argument)
                if argument in given and not (isinstance(value, ast.Constant) and value.value is right):
                    found.add(f"{argument}=")
            called = dotted(node.func) or ""
            if called in MUST_SAY and MUST_SAY[called] not in given:
                found.add(f"{called} without {MUST_SAY[called]}")
    return {name for name in found if name and _is_banned(name)}


def _is_banned(name: str) -> bool:
    if name.startswith(".") or name.endswith("=") or " without " in name:
        return True
    return any(
        name.startswith(banned[:-1]) if banned.endswith("*") else f"{name}.".startswith(f"{banned}.")
        for banned in BANNED
    )


def test_nothing_executes_what_it_is_given() -> None:
    found = {(name, danger) for name, path in modules().items() for danger in dangers(path.read_text())}
    found |= {("__init__", danger) for danger in dangers((PACKAGE / "__init__.py").read_text())}
    assert found == set(ALLOWED), "what is new must go, or into ALLOWED with its reason; what is gone must leave it"


@pytest.mark.parametrize(
    ("source", "danger"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads as read", "pickle.loads"),
        ("import torch\ntorch.load('a')", "torch.load"),
        ("import torch as t\nt.load('a', weights_only=True)", "torch.load"),
        ("import torch\ntorch.load('a')", "torch.load without weights_only"),
        ("import torch\ntorch.load('a', weights_only=x)", "weights_only="),
        ("from torch import load", "torch.load"),
        ("from torch import jit\njit.load('a')", "torch.jit.load"),
        ("import torch.export\ntorch.export.load('a')", "torch.export.load"),
        ("def f():\n    from torch.distributed import checkpoint as dcp", "torch.distributed.checkpoint"),
        ("import torch.distributed.checkpoint as dcp", "torch.distributed.checkpoint"),
        ("import torch\nf = torch.hub.load", "torch.hub.load"),
        ("import torch\nf = getattr(torch, 'load')", "torch.load"),
        ("import numpy as np\nnp.load('a')", "numpy.load without allow_pickle"),
        ("import numpy as np\nnp.load('a', allow_pickle=True)", "allow_pickle="),
        ("import numpy as np\nnp.load('a', allow_pickle=x)", "allow_pickle="),
        ("import subprocess\nsubprocess.run('a', shell=True)", "shell="),
        ("import subprocess\nsubprocess.getoutput('a')", "subprocess.getoutput"),
        ("import os\nos.system('a')", "os.system"),
        ("import os\nos.execv('a', [])", "os.execv"),
        ("eval('1')", "builtins.eval"),
        ("run = exec", "builtins.exec"),
        ("compile('1', '', 'eval')", "builtins.compile"),
        ("import yaml", "yaml"),
        ("import marshal", "marshal"),
        ("import shelve", "shelve"),
        ("import cloudpickle", "cloudpickle"),
        ("import importlib\nimportlib.import_module(name)", "importlib.import_module"),
        ("frame.to_pickle('a')", ".to_pickle"),
        ("archive.extractall('a')", ".extractall"),
    ],
)
def test_every_danger_is_seen(source: str, danger: str) -> None:
    assert danger in dangers(source)


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "class A:\n    compile: bool = False\nprint(A.compile)",
        "import torch\ntorch.compile(model)",
        "import numpy as np\nnp.load('a', allow_pickle=False)",
        "import re\nre.compile('a')",
        "import subprocess\nsubprocess.run(['a'], shell=False)",
        "import os\nos.environ['a']\nos.path.exists('a')",
        "from dlcli.config.own_code import load\nload('a')",
        "'import pickle; eval(1)'",
    ],
)
def test_what_is_harmless_is_left_alone(source: str) -> None:
    assert dangers(source) == set()


def test_no_circles_between_folders() -> None:
    """Follows from the floors, unless two folders share one."""
    names = set(modules())
    graph: dict[str, set[str]] = {folder: set() for folder in FLOORS}
    for module, path in modules().items():
        graph[room(module)] |= {room(target) for target in imports(path, names)} - {room(module)}
    while graph:
        leaves = [name for name, targets in graph.items() if not targets & graph.keys()]
        assert leaves, f"these folders import each other in a circle: {sorted(graph)}"
        for name in leaves:
            del graph[name]


def test_the_floors_are_those_of_architecture() -> None:
    """ARCHITECTURE.md has a row `| 2 | config models tasks data | ... |` for each floor, from the ground up."""
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| (\d+) \| ([a-z ]+?) +\|", text, re.M)
    assert {folder: int(floor) for floor, folders in rows for folder in folders.split()} == FLOORS


def test_architecture_names_every_file() -> None:
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text()
    for path in modules().values():
        assert path.name in text, f"{path.name} is not in ARCHITECTURE.md"
