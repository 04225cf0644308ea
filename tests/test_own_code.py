"""A user's own model and data: their errors are reported with file and line; the guide's examples run."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import dlcli as public
from dlcli.cli.main import main
from dlcli.config.settings import TrainConfig
from dlcli.experiment.build import build
from tests.conftest import Dlcli

GUIDE = (Path(__file__).parent.parent / "docs" / "own-code.md").read_text()

Call = Callable[..., tuple[int, str, str]]

HEAD = """import torch
from torch import nn
from dlcli import DataSpec, Source

"""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """`dlcli WORDS` in this process, in a folder with `mine.py`: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # the next mine.py may have the same time and size

    def run(code: str, *words: str) -> tuple[int, str, str]:
        (tmp_path / "mine.py").write_text(code)
        sys.modules.pop("mine", None)
        monkeypatch.setattr(sys, "argv", ["dlcli", *words])
        with pytest.raises(SystemExit) as left:
            main()
        sys.modules.pop("mine", None)
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


def net(*, forward: str = "return self.linear(x.flatten(1))", init: str = "pass", outputs: str = "spec.outputs") -> str:
    """mine.py with a model: `init` is line 8, `forward` line 11."""
    return HEAD + (
        "class Net(nn.Module):\n"
        "    def __init__(self, spec):\n"
        "        super().__init__()\n"
        f"        {init}\n"
        f"        self.linear = nn.Linear(64, {outputs})\n"
        "    def forward(self, x):\n"
        f"        {forward}\n"
    )


def loader(body: str, *, signature: str = "data_dir) -> Source") -> str:
    """mine.py with a data set whose line 6 is `body`."""
    return HEAD + f"def points({signature}:\n    {body}\n"


SPEC = "DataSpec('multiclass', 'features', (2,), 2)"
THREE, LABELS = SPEC.replace("2)", "3)"), "(torch.arange(40) % 3)"

MODELS = {
    "import of what is not installed": (
        "import math\nimport no_such_package\n",
        "mine:Net cannot be imported: ModuleNotFoundError in mine.py, line 2: No module named 'no_such_package'",
    ),
    "syntax": (
        "import math\nclass Net(:\n    pass\n",
        "mine:Net cannot be imported: SyntaxError in mine.py, line 2: invalid syntax",
    ),
    "name at import": (
        "width = hight\n",
        "mine:Net cannot be imported: NameError in mine.py, line 1: name 'hight' is not defined",
    ),
    "constructor": (
        net(init="self.weights = {}['w']"),
        "model mine:Net cannot be built as Net(spec): KeyError in mine.py, line 8: 'w'",
    ),
    "constructor that calls another function": (
        net(init="size(spec)") + "\n\ndef size(spec):\n    return spec.width\n",
        "model mine:Net cannot be built as Net(spec): AttributeError in mine.py, line 15: 'DataSpec' object has no "
        "attribute 'width'",
    ),
    "constructor without a spec": (
        net().replace("self, spec)", "self)"),
        "model mine:Net cannot be built as Net(spec): Net.__init__() takes 1 positional argument but 2 were given",
    ),
    "annotation": (
        net().replace("spec)", "spec, *, width: 'Size' = 3)"),
        "an annotation of Net cannot be resolved at run time: name 'Size' is not defined",
    ),
    "shape": (
        net(forward="return self.linear(x.flatten(1)[:, :60])"),
        "model mine:Net fails on a batch (1, 1, 8, 8) of digits: RuntimeError in mine.py, line 11: addmm: "
        "mat1 and mat2 shapes cannot be multiplied (1x60 and 64x10)",
    ),
    "number of outputs": (
        net(outputs="7"),
        "model mine:Net gave (1, 7) in evaluation mode, but digits has 10 classes: return (1, 10) for a batch of 1, "
        "in mine.py, line 10",
    ),
    "lost batch": (
        net(forward="return self.linear(x.flatten(1)).squeeze()"),
        "model mine:Net gave (10,) in evaluation mode, but digits has 10 classes: return (1, 10) for a batch of 1, "
        "in mine.py, line 10",
    ),
    "another output in training": (
        net(forward="y = self.linear(x.flatten(1)); return (y, y) if self.training else y"),
        "model mine:Net gave a tuple in training mode, but digits has 10 classes: return (2, 10) for a batch of 2, "
        "in mine.py, line 10",
    ),
    "answers in place of logits": (
        net(forward="return self.linear(x.flatten(1)).long()"),
        "model mine:Net gave (1, 10) of torch.int64 in evaluation mode, but digits has 10 classes: return (1, 10) "
        "for a batch of 1, in mine.py, line 10",
    ),
    "nothing to train": (
        net(forward="return self.linear(x.flatten(1)).detach()"),
        "model mine:Net has nothing to train: its output depends on no parameter",
    ),
    "lambda": (
        HEAD + "Net = lambda spec: nn.Linear(64, 10)\n",
        "model 'mine:Net' is no torch.nn.Module class: see mine.py, line 5",
    ),
    "class that is no module": (
        HEAD + "class Net:\n    pass\n",
        "model 'mine:Net' is no torch.nn.Module class: see mine.py, line 5",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_mistake_in_a_model_is_told_with_its_line_before_there_is_a_run(name: str, call: Call) -> None:
    code, message = MODELS[name]
    assert call(code, "train", "mine:Net", "--data", "digits") == (2, "", f"error: {message}\n")
    assert not Path("runs").exists()


def test_a_missing_weights_file(call: Call) -> None:
    done = call(net(init="open('weights.bin')"), "train", "mine:Net", "--data", "digits")
    assert done == (
        2, "", "error: model mine:Net cannot be built as Net(spec): FileNotFoundError in mine.py, line 8: [Errno 2] No "
        "such file or directory: 'weights.bin'\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("data", "returned", "wanted"),
    [("breast-cancer", "(1, 2)", "(1, 1)"), ("diabetes", "(1, 2)", "(1, 1)"), ("diabetes", "(1,)", "(1, 1)"),
     ("recall", "(1, 9, 8)", "(1, 8)"), ("pydocs", "(1, 2)", "(1, 128, V)")],
)  # fmt: skip
def test_an_output_is_never_stretched_to_its_target(data: str, returned: str, wanted: str, call: Call) -> None:
    shape = returned.replace("(1", "(len(x)")
    code = net(forward=f"return self.linear.weight.sum() + torch.zeros{shape}")
    left, out, err = call(code, "train", "mine:Net", "--data", data)
    assert (left, out) == (2, "")
    assert f"model mine:Net gave {returned} in evaluation mode, but {data} has " in err
    assert re.sub(r"128, \d+", "128, V", err).endswith(f"return {wanted} for a batch of 1, in mine.py, line 10\n")


LOADERS = {
    "raises": (
        loader("raise ValueError('no rows')"),
        3,
        "data mine:points cannot be loaded: ValueError in mine.py, line 6: no rows",
    ),
    "missing file": (
        loader("open(data_dir / 'points.csv')", signature="data_dir: 'Path') -> Source").replace(
            "import torch\n", "import torch; from pathlib import Path\n"
        ),
        3,
        "data mine:points cannot be loaded: FileNotFoundError in mine.py, line 6: [Errno 2] No such file or directory: "
        "'DATA/points.csv'",
    ),
    "fails inside a library": (
        loader("return torch.zeros(2, 3) @ torch.zeros(2, 3)"),
        3,
        "data mine:points cannot be loaded: RuntimeError in mine.py, line 6: mm: mat1 and mat2 shapes cannot be "
        "multiplied (2x3 and 2x3)",
    ),
    "no source": (
        loader("return 1, 2"),
        3,
        "data mine:points is not sound: it is a tuple, but a Source is expected, in mine.py, line 5",
    ),
    "row of another shape": (
        loader(f"return Source({SPEC}, torch.zeros(40, 3), torch.zeros(40).long())"),
        3,
        "data mine:points is not sound: x is (40, 3), but (N, 2) is expected of features of 2, in mine.py, line 5",
    ),
    "targets of another length": (
        loader(f"return Source({SPEC}, torch.zeros(40, 2), torch.zeros(30).long())"),
        3,
        "data mine:points is not sound: y is (30,), but (40,) is expected, one target per row of x, in mine.py, line 5",
    ),
    "targets that would be stretched": (
        loader("return Source(DataSpec('regression', 'features', (2,), 1), torch.zeros(40, 2), torch.zeros(40, 2))"),
        3,
        "data mine:points is not sound: y is (40, 2), but (40,) is expected, one target per row of x, in mine.py, "
        "line 5",
    ),
    "a value that is missing": (
        loader(
            f"x = torch.zeros(40, 2); x[3, 1] = x[7, 0] = x[7, 1] = float('nan'); return Source({THREE}, x, {LABELS})"
        ),
        3,
        "data mine:points is not sound: x[3, 1] is nan, but values must be finite as float32: replace it, or leave the "
        "row out; there are 3 such values in 2 rows, in mine.py, line 5",
    ),
    "a value that is missing, with its name": (
        loader(
            f"x = torch.zeros(40, 2); x[3, 1] = float('inf'); "
            f"return Source({THREE}, x, {LABELS}, feature_names=('age', 'income'))"
        ),
        3,
        "data mine:points is not sound: x[3, 1] (income) is inf, but values must be finite as float32: replace it, or "
        "leave the row out, in mine.py, line 5",
    ),
    "a value too large for float32": (
        loader(f"x = torch.zeros(40, 2).double(); x[0, 0] = 1e39; return Source({THREE}, x, {LABELS})"),
        3,
        "data mine:points is not sound: x[0, 0] is 1e+39, but values must be finite as float32: replace it, or leave "
        "the row out, in mine.py, line 5",
    ),
    "a class too many": (
        loader(f"return Source({THREE}, torch.zeros(40, 2), torch.arange(40) % 4)"),
        3,
        "data mine:points is not sound: y[3] is 3, but classes are whole numbers from 0 to 2; there are 10 such "
        "values, in mine.py, line 5",
    ),
    "classes between the classes": (
        loader(f"return Source({THREE}, torch.zeros(40, 2), torch.arange(40) % 4 / 2)"),
        3,
        "data mine:points is not sound: y[1] is 0.5, but classes are whole numbers from 0 to 2; there are 20 such "
        "values, in mine.py, line 5",
    ),
    "classes as fractions": (
        loader(f"return Source({THREE}, torch.zeros(40, 2), (torch.arange(40) % 3).float())"),
        3,
        "data mine:points is not sound: y is of torch.float32, but classes are whole numbers: return y.long(), in "
        "mine.py, line 5",
    ),
    "binary labels -1 and 1": (
        loader(
            "return Source(DataSpec('binary', 'features', (2,), 1), torch.zeros(40, 2), torch.arange(40) % 2 * 2 - 1)"
        ),
        3,
        "data mine:points is not sound: y[0] is -1, but classes are whole numbers from 0 to 1; there are 20 such "
        "values, in mine.py, line 5",
    ),
    "classes as words": (
        loader(f"return Source({THREE}, torch.zeros(40, 2), ['cat'] * 40)"),
        3,
        "data mine:points is not sound: y is a list with the text 'cat', but (40,) is expected, one target per row of "
        "x, in mine.py, line 5",
    ),
    "words in place of numbers": (
        loader(f"return Source({THREE}, [['red', 1]] * 40, {LABELS})"),
        3,
        "data mine:points is not sound: x is a list with the text 'red', but (N, 2) is expected of features of 2, in "
        "mine.py, line 5",
    ),
    "a test set with a missing value": (
        loader(
            f"x = torch.zeros(9, 2); x[8, 0] = float('nan'); "
            f"return Source({THREE}, torch.zeros(40, 2), {LABELS}, test_x=x, test_y={LABELS}[:9])"
        ),
        3,
        "data mine:points is not sound: test_x[8, 0] is nan, but values must be finite as float32: replace it, or "
        "leave the row out, in mine.py, line 5",
    ),
    "a token that is not in the vocabulary": (
        loader("return Source(DataSpec('next-token', 'tokens', (4,), 7, 7), torch.full((40, 5), 7), None)"),
        3,
        "data mine:points is not sound: x[0, 0] is 7, but tokens are whole numbers from 0 to 6; there are 200 such "
        "values in 40 rows, in mine.py, line 5",
    ),
    "a name too few": (
        loader(f"return Source({THREE}, torch.zeros(40, 2), {LABELS}, class_names=('a', 'b'))"),
        3,
        "data mine:points is not sound: class_names has 2 values, but the data is features of 2 for multiclass, in "
        "mine.py, line 5",
    ),
    "no rows": (
        loader(f"return Source({THREE}, torch.zeros(0, 2), torch.zeros(0).long())"),
        3,
        "data mine:points is not sound: x has no rows, in mine.py, line 5",
    ),
    "a spec of nothing": (
        loader(
            "return Source(DataSpec('multiclass', 'features', (2,), 1), torch.zeros(40, 2), torch.zeros(40).long())"
        ),
        3,
        "data mine:points is not sound: spec: outputs = 1 does not go with multiclass, in mine.py, line 5",
    ),
    "no annotation": (
        loader("raise SystemExit('called')", signature="data_dir)"),
        2,
        "data 'mine:points' is no function that is annotated to load data: def NAME(data_dir) -> Source, in mine.py, "
        "line 5",
    ),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_mistake_in_a_data_set_is_told_with_its_line(name: str, call: Call, tmp_path: Path) -> None:
    code, exit_code, message = LOADERS[name]
    left, out, err = call(code, "train", "mlp", "--data", "mine:points", "--data-dir", str(tmp_path / "data"))
    assert (left, out) == (exit_code, "")
    assert err.replace(str(tmp_path / "data"), "DATA") == f"error: {message}\n"
    assert not Path("runs").exists()


AT_STEP_3 = net(init="self.calls = 0", forward="self.calls += self.training; y = 1 / (self.calls < 5); return y * "
                "self.linear(x.flatten(1))")  # fmt: skip


def test_a_model_that_fails_while_it_trains_ends_its_run(call: Call) -> None:
    left, out, err = call(AT_STEP_3, "train", "mine:Net", "--data", "digits", "--quiet")
    told = "ZeroDivisionError in mine.py, line 11: division by zero"
    assert (left, out, err) == (2, "", f"error: {told}; --debug shows the traceback\n")
    info = json.loads(Path("runs/1/run.json").read_text())
    assert (info["status"], info["reason"]) == ("failed", told)
    log = Path("runs/1/error.log").read_text()
    assert log.startswith("Traceback") and log.endswith("ZeroDivisionError: division by zero\n")


def test_json_and_debug(call: Call) -> None:
    left, _, err = call(net(outputs="7"), "train", "mine:Net", "--data", "digits", "--json")
    assert (left, json.loads(err)["exit_code"]) == (2, 2)
    assert json.loads(err)["error"].startswith("model mine:Net gave (1, 7) in evaluation mode")
    left, _, err = call(AT_STEP_3, "--debug", "train", "mine:Net", "--data", "digits", "--quiet")
    assert left == 2 and err.startswith("Traceback") and "in forward" in err


def test_an_error_of_our_own_is_still_called_so(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlcli.data import prepare

    monkeypatch.setattr(prepare, "_mean_and_std", 3)
    left, _, err = call("", "train", "mlp", "--data", "digits")
    assert (left, err) == (
        1, "error: this is a bug in dlcli (TypeError: 'int' object is not callable); --debug shows where\n"
    )  # fmt: skip


@pytest.mark.parametrize("place", ["import", "init", "forward"])
def test_leaving_is_left_alone(place: str, call: Call) -> None:
    for statement, expected in (("raise SystemExit(33)", 33), ("raise KeyboardInterrupt", 130)):
        code = f"{statement}\n" if place == "import" else net(**{place: statement})  # type: ignore[arg-type]
        left, _, err = call(code, "train", "mine:Net", "--data", "digits", "--quiet")
        assert (left, err) == (expected, "")


def test_an_installed_model_that_fails_while_it_trains(call: Call, tmp_path: Path) -> None:
    """Its file is in site-packages, like torch's; it counts as own code because it was named."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "shelved.py").write_text(AT_STEP_3)
    sys.path.insert(0, str(folder))
    left, _, err = call("", "train", "shelved:Net", "--data", "digits", "--quiet")
    sys.modules.pop("shelved")
    assert (left, err) == (
        2, "error: ZeroDivisionError in site-packages/shelved.py, line 11: division by zero; --debug shows the "
        "traceback\n",
    )  # fmt: skip


def test_trying_a_model_leaves_it_and_the_random_state_as_they_were(call: Call) -> None:
    """A model without batch statistics and dropout gets the same weights; the buffers stay at 0 and 1."""
    noisy = net(init="self.norm, self.drop = nn.BatchNorm2d(1), nn.Dropout()",
                forward="return self.linear(self.drop(self.norm(x)).flatten(1))")  # fmt: skip
    Path("mine.py").write_text(noisy)
    sys.path.insert(0, "")
    built = build(TrainConfig(model="mine:Net", data="digits", device="cpu"))
    after = torch.rand(3)
    sys.modules.pop("mine")
    torch.manual_seed(0)
    assert built.model.training
    norm = built.model.get_submodule("norm")
    assert torch.equal(norm.get_buffer("running_mean"), torch.zeros(1))
    assert torch.equal(norm.get_buffer("running_var"), torch.ones(1))
    assert norm.get_buffer("num_batches_tracked") == 0
    from dlcli.core.seeds import derive

    torch.manual_seed(derive(0, "weights"))
    torch.nn.Linear(64, 10)
    assert torch.equal(after, torch.rand(3)), "building took all the random numbers that were taken"


# ---------------------------------------------------------------- dlcli gradcheck


README_NET = (
    "import math\nfrom torch import nn\nfrom dlcli import DataSpec, Source\nimport torch\n\n"
    "class Net(nn.Module):\n"
    "    def __init__(self, spec, *, width: int = 3):\n"
    "        super().__init__()\n"
    "        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(spec.input_shape), width), nn.Tanh(),\n"
    "                                    nn.Linear(width, spec.outputs))\n\n"
    "    def forward(self, x):\n"
    "        return self.layers(x)\n\n"
    "class Other(Net):\n"
    "    def __init__(self, about, *, width: int = 3):\n"
    "        super().__init__(about, width=width)\n\n"
    "class Seven(Net):\n"
    "    def forward(self, x):\n"
    "        return self.layers(x)[:, :2]\n\n"
    "class Raises(Net):\n"
    "    def forward(self, x):\n"
    "        return x.nothing\n\n"
    "def points(data_dir, *, features: int = 2) -> Source:\n"
    "    spec = DataSpec('multiclass', 'features', (features,), 4)\n"
    "    return Source(spec, torch.zeros(40, features), torch.zeros(40).long())\n\n"
    "made = nn.Linear(2, 2)\n"
)


@pytest.mark.parametrize(
    ("words", "weight", "bias"),
    [
        (["mine:Net", "--data", "iris"], [3, 4], [3]),
        (["mine:Net", "--data", "mine:points", "--set", "data.features=5", "--set", "width=2"], [2, 5], [4]),
        (["mine:Net", "--input", "float:4,1,2,3"], [3, 6], [3]),
        (["mine:Net", "--input", "4,6", "--set", "spec.task=regression"], [3, 6], [1]),
        (["mine:Other", "--data", "iris"], [3, 4], [3]),
    ],
)
def test_gradcheck_builds_a_model_from_data_or_a_shape(
    words: list[str], weight: list[int], bias: list[int], call: Call
) -> None:
    left, out, err = call(README_NET, "gradcheck", *words, "--json")
    assert left == 0, err
    shapes = {row["tensor"]: row["shape"] for row in json.loads(out)["targets"][0]["rows"]}
    assert (shapes["layers.1.weight"], shapes["layers.3.bias"]) == (weight, bias)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["mine:Net"],
            "mine:Net needs to know its data: --data digits (or another data set, or your own package.module:name), or "
            "the shape of a batch, --input 3,1,8,8",
        ),
        (["mine:Net", "--data", "iris", "--input", "3,4"],
         "--data iris determines the inputs of mine:Net: leave --input out"),
        (["mine:Other", "--input", "3,4"], "mine:Other needs about: --set about=VALUE"),
        (["mine:made", "--data", "iris"],
         "mine:made takes no DataSpec, so --data iris has no effect: give --input"),
        (["torch.nn:Linear", "--data", "iris"],
         "torch.nn:Linear takes no DataSpec as its first argument: give --input in place of --data iris"),
        (["mlp", "--data", "iris"],
         "--input, --data and --set are for your own package.module:Name, but mlp is built in"),
        (["mine:Seven", "--data", "iris"],
         "mine:Seven gave (3, 2), but iris has 3 classes: return (3, 3) for a batch of 3, in mine.py, line 20"),
        (["mine:Raises", "--data", "iris"],
         "mine:Raises does not take --input 3,4: AttributeError in mine.py, line 25: 'Tensor' object has no attribute "
         "'nothing'"),
        (["mine:Net", "--data", "irs"], "unknown data 'irs': did you mean iris?"),
    ],
)  # fmt: skip
def test_gradcheck_says_what_is_missing_or_wrong(words: list[str], message: str, call: Call) -> None:
    assert call(README_NET, "gradcheck", *words) == (2, "", f"error: {message}\n")


# ---------------------------------------------------------------- the guide


def test_every_public_name_has_an_example_in_the_guide() -> None:
    blocks = "\n".join(re.findall(r"```python\n(.*?)```", GUIDE, re.S))
    imported = {
        name.strip() for line in re.findall(r"^from dlcli import (.*)$", blocks, re.M) for name in line.split(",")
    }
    records = {"Row": "a", "Prediction": "one", "Evaluation": "an"}
    assert imported | records.keys() == set(public.__all__) - {"__version__"}
    assert all(
        f"{'an' if name == 'Evaluation' else 'a' if name != 'Prediction' else 'one'} {name}" in GUIDE
        for name in records
    )
    assert not re.search(r"^\s*(from|import) dlcli\.", blocks, re.M), "through the public names only"
    for name in public.__all__:
        assert getattr(public, name) is not None


@pytest.mark.slow
def test_the_guide_runs(dlcli: Dlcli, tmp_path: Path) -> None:
    mine, *examples = re.findall(r"```python\n(.*?)```", GUIDE, re.S)
    (tmp_path / "mine.py").write_text(mine)
    for line in re.findall(r"^    \$ dlcli (.*)$", GUIDE, re.M):
        dlcli(*shlex.split(line))
    printed = []
    for example in examples:
        done = subprocess.run(
            [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.splitlines())
    trained, resumed, evaluated, predicted, run, frame, source, caught = printed
    assert len(trained) == 5
    assert [line.split()[0] for line in resumed] == ["6", "7", "8"]
    assert evaluated[0].startswith(("0.", "1.0"))
    assert [line.split()[:2] for line in predicted] == [["new.csv:2", "above"], ["new.csv:3", "below"]]
    assert run[0] == "finished 0.1 runs/2" and len(json.loads(run[1])) == 8
    assert "mine:Net" in "".join(frame) and len(frame) >= 4
    assert source == ["features of 3 50"]
    assert caught == ["there is no run runs/1000 in runs: see `dlcli runs` 4"]
