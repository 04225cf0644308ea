"""Malicious runs, files and names: each kind damages a copy of a real run.

A valid manifest does not make a run trustworthy, so every kind that changes a checkpoint writes a new manifest.
`MARKER` is a file that appears if anything that came with a run is executed.
"""

import hashlib
import io
import json
import math
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

MARKER = "EXECUTED"

# A name that a terminal, a table, a spreadsheet or a web page could misinterpret.
NAMES = (
    "[/x][bold]markup", "\x1b]0;title\x07\x1b[2J", "over\rwritten", "\x9b31m", "turned\u202earound", "two\nlines",
    "=1+1", "@SUM(A1)", "<script>alert(1)</script>", "a|b", "\N{FULLWIDTH EQUALS SIGN}1", "\x7f\x00",
)  # fmt: skip

Damage = Callable[[Path], None]
COMMANDS = ("runs", "show", "eval", "predict", "resume", "train")

# Name -> function that makes it, commands that must refuse it, commands that are tried.
KINDS: dict[str, tuple[Damage, frozenset[str], frozenset[str]]] = {}


def kind(*refused_by: str, tried: Iterable[str] = COMMANDS) -> Callable[[Damage], Damage]:
    """Register a kind, with the commands that must refuse it; the other commands that are tried must succeed."""

    def enter(damage: Damage) -> Damage:
        KINDS[damage.__name__.replace("_", " ")] = damage, frozenset(refused_by), frozenset(tried)
        return damage

    return enter


# ---------------------------------------- tools


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").iterdir())


def seal(folder: Path) -> None:
    """Write a manifest that matches the current files of a checkpoint."""
    for file in folder.iterdir():
        if file.name != "MANIFEST.json" and file.is_file():
            seal_file(file, hashlib.sha256(file.read_bytes()).hexdigest())


def seal_file(file: Path, sha256: str) -> None:
    manifest = file.with_name("MANIFEST.json")
    document = json.loads(manifest.read_text())
    document["files"][file.name] = {"size": file.stat().st_size, "sha256": sha256}
    manifest.write_text(json.dumps(document))


def replace(run: Path, name: str, content: bytes) -> None:
    """Replace the content of a file in every checkpoint, and write new manifests."""
    shared = run / f"new {name}"  # since best and last may share the file
    shared.write_bytes(content)
    for folder in checkpoints(run):
        if (folder / name).exists():
            (folder / name).unlink()
            os.link(shared, folder / name)
            seal_file(folder / name, hashlib.sha256(content).hexdigest())
    shared.unlink()


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON document in place; `change` may return another one."""
    document = json.loads(file.read_text())
    if isinstance(document, dict):
        document.pop("checksum", None)  # whoever tampers can compute it, too
    changed = change(document)
    file.write_text(json.dumps(document if changed is None else changed))
    if file.name == "state.json":
        seal(file.parent)


def set_in(file: Path, *path: str, to: Any) -> None:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = to

    edit(file, change)


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def safetensors(header: bytes | dict[str, Any], data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def weights(run: Path) -> bytes:
    return (checkpoints(run)[0] / "model.safetensors").read_bytes()


def start_from(run: Path, content: bytes, name: str) -> None:
    """Let the run say that it started from weights of this content, in a file of its own folder."""
    (run / name).write_bytes(content)
    set_in(run / "config.json", "weights", to=str(run / name))


def reshape(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the header of the weights, and keep their bytes."""
    header, data = header_of(weights(run))
    changed = change(header)
    replace(run, "model.safetensors", safetensors(header if changed is None else changed, data))


def fill(run: Path, values: Mapping[str, float], *, other: float) -> None:
    """Set all elements of a weight tensor (float32) to one value."""
    header, data = header_of(weights(run))
    content = bytearray(data)
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            content[first:last] = struct.pack("<f", values.get(name, other)) * ((last - first) // 4)
    replace(run, "model.safetensors", safetensors(header, bytes(content)))


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


def marker(run: Path) -> Path:
    return run.parent / MARKER


def code(run: Path) -> str:
    """A module that looks like a model and creates the marker when it is imported."""
    return (
        f"open({str(marker(run))!r}, 'w').close()\n"
        "from torch import nn\nclass Net(nn.Linear):\n    def __init__(self, spec):\n        super().__init__(4, 3)\n"
    )


def set_model(run: Path, name: str, **options: Any) -> None:
    set_in(run / "config.json", "model", to={"name": name, **options})


# ---------------------------------------- what would be executed

WEIGHTS = ("eval", "predict", "resume")


@kind(*WEIGHTS)
def pickle_for_weights(run: Path) -> None:
    replace(run, "model.safetensors", pickle.dumps(Payload(marker(run))))


@kind(*WEIGHTS)
def torch_save_for_weights(run: Path) -> None:
    import torch

    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(2), "payload": Payload(marker(run))}, buffer)
    replace(run, "model.safetensors", buffer.getvalue())


@kind(*WEIGHTS)
def legacy_tar_for_weights(run: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(Payload(marker(run)))
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    replace(run, "model.safetensors", buffer.getvalue())


@kind(*WEIGHTS)
def torchscript_for_weights(run: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/constants.pkl", pickle.dumps(Payload(marker(run))))
        archive.writestr("model/code/__torch__.py", code(run))
        archive.writestr("model/data.pkl", pickle.dumps(Payload(marker(run))))
        archive.writestr("model/version", "3")
    replace(run, "model.safetensors", buffer.getvalue())


@kind(*WEIGHTS)
def zip_bomb_for_weights(run: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", b"\0" * 200_000_000)
    replace(run, "model.safetensors", buffer.getvalue())


@kind("resume")
def pickle_for_the_training(run: Path) -> None:
    replace(run, "training.safetensors", pickle.dumps(Payload(marker(run))))


@kind()
def pickles_beside_the_weights(run: Path) -> None:
    for folder in checkpoints(run):
        for name in ("model.pt", "training.pt", "data.pkl"):
            (folder / name).write_bytes(pickle.dumps(Payload(marker(run))))
        seal(folder)


@kind("eval", "predict", "resume", "train")
def model_module_in_the_run(run: Path) -> None:
    (run / "evil_net.py").write_text(code(run))
    set_model(run, "evil_net:Net")


@kind("eval", "predict", "resume", "train")
def model_module_beside_the_runs(run: Path) -> None:
    (run.parent / "evil_side.py").write_text(code(run))
    set_model(run, "evil_side:Net")


@kind("eval", "predict", "resume", "train")
def model_package_in_the_run(run: Path) -> None:
    package = run / "evil_package" / "inner"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text(code(run))
    (package / "__init__.py").write_text("")
    (package / "net.py").write_text(code(run))
    set_model(run, "evil_package.inner.net:Net")


@kind("eval", "predict", "resume", "train")
def model_in_a_namespace_package_in_the_run(run: Path) -> None:
    (run / "evil_space").mkdir()
    (run / "evil_space" / "net.py").write_text(code(run))
    set_model(run, "evil_space.net:Net")


@kind("eval", "predict", "resume", "train")
def data_function_in_the_run(run: Path) -> None:
    (run / "evil_data.py").write_text(code(run) + "def load(data_dir): open(data_dir)\n")
    set_in(run / "config.json", "data", to={"name": "evil_data:load"})


def _model(name: str) -> None:
    def damage(run: Path) -> None:
        set_model(run, name)

    damage.__name__ = f"model {name}"
    kind("eval", "predict", "resume", "train")(damage)


def _data(name: str, *refused_by: str) -> None:
    def damage(run: Path) -> None:
        set_in(run / "config.json", "data", to={"name": name})
        set_in(run / "config.json", "data_dir", to=f"/;touch {marker(run)}")

    damage.__name__ = f"data {name}"
    kind(*refused_by)(damage)


for _name in (
    "os:system", "subprocess:Popen", "torch:load", "builtins:eval", "builtins:exec", "torch.hub:load", "antigravity:x",
    "this:x", "__main__:Net", "../../evil:Net", ".evil:Net", "evil net:Net", "dlcli.runs.run:Run", "pickle:loads",
    "tests.evil:Payload", "a" * 3000 + ":Net", "torch.nn:Linear.__init__.__globals__",
):  # fmt: skip
    _model(_name)
# The loader of a data set is called with the data folder, which here is a command, a program or a file to destroy.
for _name in ("os:system", "os:popen", "subprocess:getoutput", "os:mkdir", "shutil:rmtree", "runpy:run_path"):
    _data(_name, "eval", "predict", "resume", "train")
_data("torch:load", "eval", "resume", "train")  # a prediction needs no data


# ---------------------------------------- weights


@kind(*WEIGHTS)
def header_of_exabytes(run: Path) -> None:
    replace(run, "model.safetensors", safetensors(b"{}", length=2**60))


@kind(*WEIGHTS)
def header_of_100_MB(run: Path) -> None:
    replace(run, "model.safetensors", safetensors(b"{" + b" " * 100_000_000 + b"}"))


@kind(*WEIGHTS)
def header_nested_deeply(run: Path) -> None:
    replace(run, "model.safetensors", safetensors(b'{"a":' + b"[" * 500_000 + b"]" * 500_000 + b"}"))


@kind(*WEIGHTS)
def header_with_a_key_twice(run: Path) -> None:
    header, data = header_of(weights(run))
    name, entry = next((n, e) for n, e in header.items() if n != "__metadata__")
    text = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(entry)}" + "}"
    replace(run, "model.safetensors", safetensors(text.encode(), data))


@kind(*WEIGHTS)
def tensors_that_overlap(run: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        names = [n for n in header if n != "__metadata__"]
        for name in names:
            size = header[name]["data_offsets"][1] - header[name]["data_offsets"][0]
            header[name]["data_offsets"] = [0, size]

    reshape(run, change)


@kind(*WEIGHTS)
def tensors_beyond_the_end(run: Path) -> None:
    reshape(run, lambda header: header.update(x={"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}))


@kind(*WEIGHTS)
def tensors_with_negative_shapes(run: Path) -> None:
    reshape(run, lambda header: header.update(x={"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}))


@kind(*WEIGHTS)
def tensors_with_a_thousand_axes(run: Path) -> None:
    header, data = header_of(weights(run))
    header["x"] = {"dtype": "F32", "shape": [1] * 1000, "data_offsets": [len(data), len(data) + 4]}
    replace(run, "model.safetensors", safetensors(header, data + bytes(4)))


@kind(*WEIGHTS)
def tensors_of_an_unknown_type(run: Path) -> None:
    reshape(run, lambda header: [e.update(dtype=["F32"]) for n, e in header.items() if n != "__metadata__"] and None)


@kind(*WEIGHTS)
def tensors_of_another_type(run: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        for name, entry in header.items():
            if name != "__metadata__":
                entry["dtype"] = "I32"

    reshape(run, change)


@kind(*WEIGHTS)
def tensors_named_as_paths(run: Path) -> None:
    reshape(run, lambda header: {f"../../{n}\x1b[2J": e for n, e in header.items()})


@kind(*WEIGHTS)
def twenty_thousand_tensors(run: Path) -> None:
    header, data = header_of(weights(run))
    header |= {f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [len(data)] * 2} for i in range(20_000)}
    replace(run, "model.safetensors", safetensors(header, data))


@kind(*WEIGHTS)
def weights_that_are_not_finite(run: Path) -> None:
    header, data = header_of(weights(run))
    replace(run, "model.safetensors", safetensors(header, b"\xff" * len(data)))


@kind("predict", tried=("eval", "predict"))
def weights_that_overflow(run: Path) -> None:
    fill(run, {}, other=3e38)


@kind(*WEIGHTS)
def no_weights_in_the_manifest(run: Path) -> None:
    for folder in checkpoints(run):
        (folder / "MANIFEST.json").write_text('{"format": 1, "files": {}}')


@kind(*WEIGHTS)
def manifest_that_names_a_file_outside(run: Path) -> None:
    content = (run / "config.json").read_bytes()
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    for folder in checkpoints(run):
        edit(folder / "MANIFEST.json", lambda m: m["files"].update({"../../config.json": entry}))


@kind(*WEIGHTS)
def manifest_that_names_its_parent(run: Path) -> None:
    for folder in checkpoints(run):
        edit(folder / "MANIFEST.json", lambda m: m["files"].update({"..": {"size": 4096, "sha256": ""}}))


@kind(*WEIGHTS)
def many_megabytes_that_are_sparse(run: Path) -> None:
    for folder in checkpoints(run):
        file = folder / "model.safetensors"
        file.unlink()
        entry = {"dtype": "F32", "shape": [2**26], "data_offsets": [0, 2**28]}
        file.write_bytes(safetensors({"x": entry}))
        with open(file, "r+b") as stream:
            stream.truncate(file.stat().st_size + 2**28)
        size = file.stat().st_size
        edit(folder / "MANIFEST.json", lambda m, size=size: m["files"]["model.safetensors"].update(size=size))


@kind(*WEIGHTS)
def another_model_in_the_config(run: Path) -> None:
    set_model(run, "logistic")


@kind("eval", "predict", "resume", "train")
def a_gigantic_model(run: Path) -> None:
    set_model(run, "mlp", hidden=[10**9, 10**9])


@kind("eval", "predict", "resume", "train")
def a_large_model(run: Path) -> None:
    """A model whose memory the machine might be able to allocate."""
    set_model(run, "mlp", hidden=[200_000, 200_000])


@kind("eval", "predict", "resume", "train")
def a_model_of_a_hundred_thousand_layers(run: Path) -> None:
    set_model(run, "mlp", hidden=[1] * 100_000)


@kind("eval", "predict", "resume", "train")
def a_model_of_a_billion_layers(run: Path) -> None:
    set_model(run, "attention", layers=10**9)
    set_in(run / "config.json", "data", to={"name": "recall"})
    edit(run / "data.json", _recall)


@kind("eval", "predict", "resume", "train")
def a_recurrent_model_of_a_billion_layers(run: Path) -> None:
    set_model(run, "rnn", layers=10**9)
    set_in(run / "config.json", "data", to={"name": "pydocs"})
    spec = {"task": "next-token", "kind": "tokens", "input_shape": [4], "outputs": 2, "vocabulary": 2}
    edit(run / "data.json", lambda d: d.update(_plain_data(spec)))


@kind("eval", "predict", "resume", "train")
def positions_of_a_million_steps(run: Path) -> None:
    set_model(run, "attention", width=4000, heads=1, positions="sinusoidal")
    edit(run / "data.json", lambda d: d.update(_plain_data(_recall_spec(10**6))))


def _plain_data(spec: dict[str, Any]) -> dict[str, Any]:
    return {"spec": spec, "mean": [], "std": [], "class_names": [], "feature_names": [], "alphabet": ""}


def _recall_spec(steps: int) -> dict[str, Any]:
    return {"task": "multiclass", "kind": "tokens", "input_shape": [steps], "outputs": 8, "vocabulary": 144}


def _recall(document: dict[str, Any]) -> None:
    document.update(_plain_data(_recall_spec(9)))


# ---------------------------------------- data


@kind("eval", "resume", "train")
def data_that_no_memory_holds(run: Path) -> None:
    set_in(run / "config.json", "data", to={"name": "random", "samples": 10**12, "shape": [4], "classes": 3})


@kind("eval", "resume", "train")
def data_from_dev_zero(run: Path) -> None:
    set_in(run / "config.json", "data", to={"name": "text:/dev/zero"})


@kind("eval", "resume", "train")
def data_from_a_fifo(run: Path) -> None:
    os.mkfifo(run / "text")
    set_in(run / "config.json", "data", to={"name": f"text:{run / 'text'}"})


@kind("eval", "resume", "train")
def a_table_from_a_fifo(run: Path) -> None:
    os.mkfifo(run / "a.csv")
    set_in(run / "config.json", "data", to={"name": f"table:{run / 'a.csv'}", "target": "y"})


@kind("eval", "resume", "train")
def a_table_from_dev_zero(run: Path) -> None:
    set_in(run / "config.json", "data", to={"name": "table:/dev/zero", "target": "y"})


@kind("eval", "resume", "train")
def a_table_that_unpacks_to_too_much(run: Path) -> None:
    (run / "a.csv.gz").write_bytes(zlib.compress(b"a,y\n" + b"1,2\n" * 10**6, wbits=31) * 300)
    set_in(run / "config.json", "data", to={"name": f"table:{run / 'a.csv.gz'}", "target": "y"})


@kind("eval", "resume", "train")
def arrays_from_a_fifo(run: Path) -> None:
    os.mkfifo(run / "a.npz")
    set_in(run / "config.json", "data", to={"name": f"arrays:{run / 'a.npz'}"})


@kind("eval", "resume", "train")
def arrays_that_are_pickled(run: Path) -> None:
    (run / "arrays").mkdir()
    for name in ("x", "y"):
        (run / "arrays" / f"{name}.npy").write_bytes(pickle.dumps(Payload(marker(run))))
    set_in(run / "config.json", "data", to={"name": f"arrays:{run / 'arrays'}"})


@kind("eval", "predict")
def an_encoding_of_another_shape(run: Path) -> None:
    column = {"name": "a", "kind": "number", "fills": [0.0]}
    set_in(run / "data.json", "encoding", to={"columns": [column], "header": True, "invalid": "error"})


@kind("eval", "predict")
def an_encoding_that_is_none(run: Path) -> None:
    set_in(run / "data.json", "encoding", to=[1, 2])


@kind("predict")
def an_encoding_whose_names_command_a_terminal(run: Path) -> None:
    columns = [{"name": name, "kind": "number", "fills": [0.0]} for name in NAMES[1:5]]
    set_in(run / "data.json", "encoding", to={"columns": columns, "header": True, "invalid": "error"})


@kind("eval", "resume", "train")
def data_with_a_nul_in_its_name(run: Path) -> None:
    set_in(run / "config.json", "data", to={"name": "text:/a\0b"})


@kind("train", "eval", "resume", "predict")
def data_dir_of_nobody(run: Path) -> None:
    set_in(run / "config.json", "data_dir", to="~nobody-of-this-name/x")


@kind("eval", "predict")
def absurd_shapes(run: Path) -> None:
    set_in(run / "data.json", "spec", "input_shape", to=[2**40])


@kind("eval", "predict")
def normalisation_of_another_shape(run: Path) -> None:
    set_in(run / "data.json", "mean", to=[0.0] * 7)


@kind("eval", "predict")
def normalisation_by_zero(run: Path) -> None:
    set_in(run / "data.json", "std", to=[0.0] * 4)


@kind("eval", "predict")
def alphabet_of_another_size(run: Path) -> None:
    set_in(run / "data.json", "alphabet", to="abc")


@kind("eval", "predict")
def pieces_of_other_data(run: Path) -> None:
    set_in(run / "data.json", "pieces", to={"unit": "words", "vocabulary": [chr(256 + n) for n in range(300)]})


@kind("eval", "predict")
def too_few_class_names(run: Path) -> None:
    set_in(run / "data.json", "class_names", to=["one"])


@kind("eval", "predict")
def another_task(run: Path) -> None:
    set_in(run / "data.json", "spec", "task", to="regression")


@kind("resume", "train")
def a_teacher_that_is_a_device(run: Path) -> None:
    set_in(run / "config.json", "teacher", to="/dev/zero")


@kind("resume")
def a_teacher_that_has_other_weights(run: Path) -> None:
    set_in(run / "config.json", "teacher", to=str(run))
    set_in(run / "run.json", "teacher", to={"run": str(run), "checkpoint": NAMES[1], "sha256": "0" * 64})


@kind("train")
def a_start_from_a_pickle(run: Path) -> None:
    start_from(run, pickle.dumps(Payload(marker(run))), "start.pth")


@kind("train")
def a_start_from_an_archive_of_pickles(run: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Payload(marker(run))))
        archive.writestr("archive/version", "3\n")
    start_from(run, buffer.getvalue(), "start.pth")


@kind("train")
def a_start_from_a_device(run: Path) -> None:
    set_in(run / "config.json", "weights", to="/dev/zero")


@kind("train")
def a_start_from_weights_that_are_larger_than_they_say(run: Path) -> None:
    header = {"layers.weight": {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}}
    start_from(run, safetensors(header), "start.safetensors")


@kind("train")
def a_start_from_weights_that_are_not_finite(run: Path) -> None:
    header, data = header_of(weights(run))
    start_from(run, safetensors(header, struct.pack("<f", float("nan")) * (len(data) // 4)), "start.safetensors")


@kind("train")
def a_start_from_a_run_with_another_name_for_its_weights(run: Path) -> None:
    start_from(run, safetensors({NAMES[1]: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
               "start.safetensors")  # fmt: skip


def pruned(run: Path, **shapes: list[int]) -> None:
    """Say that the run was pruned by channels, with weights of zeros in these shapes."""
    set_in(run / "config.json", "weights", to=str(run))
    set_in(run / "config.json", "pruned", to="structured")
    header, at = {}, 0
    for name, shape in ({"0_weight": [4, 4], "0_bias": [4], "1_weight": [3, 4], "1_bias": [3]} | shapes).items():
        layer, tensor = name.split("_")
        size = 4 * math.prod(shape)
        header[f"layers.{1 + 2 * int(layer)}.{tensor}"] = {
            "dtype": "F32", "shape": shape, "data_offsets": [at, at + size]
        }  # fmt: skip
        at += size
    replace(run, "model.safetensors", safetensors(header, b"\0" * at))


@kind(*WEIGHTS, "train")
def pruned_to_larger_layers(run: Path) -> None:
    pruned(run, **{"0_weight": [5, 4], "0_bias": [5], "1_weight": [3, 5]})


@kind(*WEIGHTS, "train")
def pruned_to_layers_that_do_not_fit_each_other(run: Path) -> None:
    pruned(run, **{"0_weight": [2, 4], "0_bias": [2], "1_weight": [3, 3]})


@kind(*WEIGHTS, "train")
def pruned_to_nothing(run: Path) -> None:
    pruned(run, **{"0_weight": [0, 4], "0_bias": [0], "1_weight": [3, 0]})


@kind(*WEIGHTS, "train")
def pruned_answers(run: Path) -> None:
    pruned(run, **{"1_weight": [2, 4], "1_bias": [2]})


@kind(*WEIGHTS, "train")
def a_model_of_exabytes_that_says_it_was_pruned(run: Path) -> None:
    pruned(run)
    set_in(run / "config.json", "model", "hidden", to=[10**9])


@kind("show", "eval", "predict", "resume", tried=("show", "eval", "predict", "resume"))
def pruning_that_is_no_table(run: Path) -> None:
    set_in(run / "run.json", "pruning", to=[1])


@kind("eval", "predict", "resume", "train")
def a_start_that_no_setting_can_have(run: Path) -> None:
    set_in(run / "config.json", "pretrained", to=NAMES[1])


@kind()
def nonsense_about_the_start(run: Path) -> None:
    set_in(run / "run.json", "weights", to={"taken": NAMES[1], "new": [7, None], NAMES[2]: {}})


@kind()
def nonsense_about_the_sweep(run: Path) -> None:
    for name, value in (("sweep", NAMES[0]), ("trial", -1), ("over", [NAMES[1]]), ("seed", None)):
        set_in(run / "run.json", name, to=value)


@kind("show", "eval", "predict", "resume")
def parents_that_are_none(run: Path) -> None:
    set_in(run / "run.json", "parents", to=[NAMES[1], 7])


@kind("resume")
def the_same_name_for_all_of_the_optimizer(run: Path) -> None:
    for path in places(run, "state.json"):
        document = json.loads(path.read_text())
        if "training" in document:
            names = document["training"]["optimizer_names"]
            set_in(path, "training", "optimizer_names", to=names[:1] * len(names))


# ---------------------------------------- names


@kind()
def names_that_command_a_terminal(run: Path) -> None:
    set_in(run / "data.json", "class_names", to=list(NAMES[:3]))
    set_in(run / "data.json", "feature_names", to=list(NAMES[3:7]))


@kind()
def more_names_that_command_a_terminal(run: Path) -> None:
    set_in(run / "data.json", "class_names", to=list(NAMES[6:9]))
    set_in(run / "data.json", "feature_names", to=list(NAMES[8:12]))


@kind()
def status_that_commands_a_terminal(run: Path) -> None:
    for key in ("status", "model", "data", "device", "reason", "stop", "host", "torch", "command"):
        set_in(run / "run.json", key, to=" ".join(NAMES))
    set_in(run / "run.json", "best", "metric", to=" ".join(NAMES))
    set_in(run / "run.json", " ".join(NAMES), to=1)


@kind("eval", "predict", "resume", "train")
def model_name_that_commands_a_terminal(run: Path) -> None:
    set_model(run, NAMES[1])


@kind()
def metrics_that_command_a_terminal(run: Path) -> None:
    header = ",".join('"' + name.replace("\n", " ") + '"' for name in NAMES)
    (run / "metrics.csv").write_text(f"epoch,{header}\n" + "1" + ",2" * len(NAMES) + "\n")


@kind()
def files_that_command_a_terminal(run: Path) -> None:
    (run / "\x1b]0;title\x07.txt").write_text("")
    (run / "[bold]\n=1+1").write_text("")
    Path(os.fsdecode(os.fsencode(run) + b"/\xff\xfe")).write_text("")


@kind()
def a_status_of_a_megabyte(run: Path) -> None:
    set_in(run / "run.json", "reason", to="x" * 900_000)


# ---------------------------------------- links and special files

FILES = ("config.json", "run.json", "data.json", "metrics.csv", "state.json", "MANIFEST.json", "model.safetensors",
         "training.safetensors", "lock", "log.txt")  # fmt: skip

# The commands that read or write each file.
USERS = {
    "config.json": ("show", "eval", "predict", "resume", "train"),
    "run.json": ("show", "eval", "predict", "resume"),
    "data.json": ("eval", "predict"),
    "metrics.csv": ("show", "resume"),
    "state.json": WEIGHTS, "MANIFEST.json": WEIGHTS, "model.safetensors": WEIGHTS,
    "training.safetensors": ("resume",), "lock": ("resume",), "log.txt": ("resume",),
}  # fmt: skip


def places(run: Path, name: str) -> list[Path]:
    """The paths of the files with this name in the run."""
    if (run / name).exists() or name in ("log.txt", "lock"):
        return [run / name]
    return [folder / name for folder in checkpoints(run) if (folder / name).exists()]


def _special(name: str) -> None:
    users = USERS[name]
    shown = () if name == "config.json" else ("show",) if "show" in users else ()

    def put(make: Callable[[Path], None], what: str, refused: tuple[str, ...]) -> None:
        def damage(run: Path) -> None:
            for place in places(run, name):
                place.unlink(missing_ok=True)
                make(place)

        damage.__name__ = f"{name} is {what}"
        replaced = name == "data.json" and what != "a folder"  # a resume rewrites it
        more = ("resume",) if name == "data.json" and not replaced else ()
        kind(*refused, *more, tried={"runs", *USERS[name]})(damage)

    run_commands = tuple(c for c in users if c not in ("show", "train"))
    train = tuple(c for c in users if c == "train")
    put(os.mkfifo, "a FIFO", (*run_commands, *shown, *train))
    put(Path.mkdir, "a folder", (*run_commands, *shown, *train))
    put(lambda place: place.symlink_to("/dev/zero"), "a link to dev zero", (*run_commands, *shown, *train))
    victim = run_commands + shown

    def link(place: Path) -> None:
        outside = place.parent / f"victim of {name}"
        outside.write_text('{"status": "finished"}\n')
        place.symlink_to(outside)

    put(link, "a link to a file", (*victim, *train))


for _name in FILES:
    _special(_name)


@kind(*WEIGHTS)
def checkpoints_elsewhere(run: Path) -> None:
    shutil.move(run / "checkpoints", run.parent / "elsewhere")
    (run / "checkpoints").symlink_to(run.parent / "elsewhere")


@kind("eval", "predict")  # as if there were none: a resume starts from the beginning
def checkpoint_folders_that_are_links(run: Path) -> None:
    for folder in checkpoints(run):
        moved = run / folder.name
        shutil.move(folder, moved)
        folder.symlink_to(moved)


@kind("eval")
def eval_folder_that_is_a_link(run: Path) -> None:
    (run.parent / "victim").mkdir()
    (run / "eval").symlink_to(run.parent / "victim")


@kind()
def error_log_that_is_a_link(run: Path) -> None:
    (run.parent / "victim.txt").write_text("precious")
    (run / "error.log").symlink_to(run.parent / "victim.txt")


@kind()
def hard_links(run: Path) -> None:
    """Checkpoints share their weights through hard links."""
    for name in FILES:
        for number, place in enumerate(places(run, name)):
            if place.exists():
                os.link(place, run / f"{number} {name}")


@kind(*WEIGHTS)
def thousands_of_damaged_checkpoints(run: Path) -> None:
    for folder in checkpoints(run):
        (folder / "model.safetensors").unlink()
    for number in range(500):
        for role in ("best", "last"):
            (run / "checkpoints" / f"{role}-{number + 100}").mkdir()


@kind()
def thousands_of_files(run: Path) -> None:
    for number in range(1500):
        (run / f"file {number}").touch()


@kind()
def folders_nested_deeply(run: Path) -> None:
    here = os.getcwd()
    try:
        os.chdir(run)
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)


# ---------------------------------------- metrics.csv


def _metrics(content: bytes, what: str, *refused: str) -> None:
    def damage(run: Path) -> None:
        (run / "metrics.csv").write_bytes(content)

    damage.__name__ = f"metrics {what}"
    kind(*refused, tried=("runs", "show"))(damage)


_metrics(b"epoch,val/loss\n1,1e999\n", "of infinity", "show")
_metrics(b"epoch,val/loss\n1,nan\n", "of NaN", "show")
_metrics(b"epoch,val/loss\n1," + b"1" * 10_000_000 + b"\n", "with a cell of 10 MB", "show")
_metrics(b'epoch,val/loss\n1,"' + b"1,\n" * 100_000, "with a quote that never ends", "show")
_metrics(b"a\n" + b"1\n" * 600_000, "of 600,000 rows")
_metrics(b"a\n" + b"1\n" * 600_000 + b"1" * 200_000 + b"\n", "of many rows and a last line of 200 KB", "show")
_metrics(
    b",".join(b"%d" % k for k in range(2000)) + b"\n" + (b"1," * 1999 + b"1\n") * 3000, "of 3000 rows of 2000 values"
)
_metrics(b"a," * 5_000_000 + b"\n", "of 5 million columns", "show")
_metrics(b"\xff\xfe\xfd,\x00\n1,2\n", "of no text", "show")
_metrics(b"a,b\n1,2,3,4\n", "with more cells than columns", "show")
_metrics(b"\n" * 3_000_000, "of empty lines", "show")


@kind("show", tried=("runs", "show"))
def metrics_of_a_line_of_gigabytes(run: Path) -> None:
    os.truncate(run / "metrics.csv", 2 * 10**9)


# ---------------------------------------- JSON

DOCUMENTS = ("config.json", "run.json", "data.json", "state.json", "MANIFEST.json")


def _json(content: Callable[[str], str | bytes], what: str) -> None:
    for name in DOCUMENTS:

        def damage(run: Path, name: str = name) -> None:
            for place in places(run, name):
                text = content(place.read_text())
                place.write_bytes(text if isinstance(text, bytes) else text.encode())
                if name == "state.json":
                    seal(place.parent)

        damage.__name__ = f"{name} {what}"
        users = tuple(c for c in USERS[name] if c != "show" or name == "run.json")
        kind(*users, tried=users)(damage)


def _with(extra: str) -> Callable[[str], str]:
    return lambda text: text.rstrip()[:-1].rstrip() + f", {extra}}}"


_json(_with('"x": 1, "x": 2'), "with a key twice")
_json(_with('"x": ' + "[" * 100_000 + "]" * 100_000), "nested deeply")
_json(_with('"x": ' + "[" * 100 + "]" * 100), "nested a little too deeply")
_json(_with('"x": 1' + "0" * 5000), "with a number of 5000 digits")
_json(_with('"x": NaN'), "with NaN")
_json(_with('"x": -Infinity'), "with infinity")
_json(_with('"x": 1e999'), "with a number beyond floats")
_json(_with('"x": "\\ud800"'), "with half a character")
_json(_with('"x": "' + "x" * 17_000_000 + '"'), "with a text of 17 MB")
_json(lambda text: b"\xff" + text.encode(), "that is not UTF-8")
_json(lambda text: "", "that is empty")
_json(lambda text: "[]", "that is a list")
_json(lambda text: "null", "that is null")
_json(lambda text: text[: len(text) // 2], "cut in half")


@kind("eval", "predict", "resume", "train")
def options_that_are_no_table(run: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["model_options"] = "x"

    edit(run / "config.json", change)


@kind("show", "eval", "predict", "resume")
def a_million_threads(run: Path) -> None:
    set_in(run / "run.json", "threads", to=10**6)


@kind("show", "eval", "predict", "resume")
def a_million_threads_to_evaluate(run: Path) -> None:
    set_in(run / "run.json", "eval_threads", to=10**6)


VALUES: tuple[Any, ...] = (None, -1, 10**30, "x", [], {}, "x" * 900_000, True, 1.5)


def keys(document: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path to every value of a document, at any depth."""
    for key, value in document.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from keys(value, (*path, key))


# ---------------------------------------- inputs, config files


def png(width: int, height: int, *, colours: int = 0, depth: int = 8, clear: bytes = b"") -> bytes:
    """A black PNG of any size in a few bytes. colours: 0 grey, 2 RGB, 6 RGBA. clear: the transparent colour."""
    channels = {0: 1, 2: 3, 6: 4}[colours]
    packer = zlib.compressobj(9)
    line = bytes(1 + width * channels * depth // 8)
    data = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    clear = chunk(b"tRNS", clear) if clear else b""
    return b"\x89PNG\r\n\x1a\n" + header + clear + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(tags: dict[int, int]) -> bytes:
    """A TIFF of 8x8 grey bytes, with further tags."""
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64} | tags
    table = b"".join(struct.pack("<HHIHH", tag, 3, 1, tags[tag], 0) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<I", 72) + bytes(64) + struct.pack("<H", len(tags)) + table + bytes(4)


def jpeg_cut_off() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "JPEG")
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]
