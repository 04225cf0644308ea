"""dlcli gradcheck on a user's own modules: what it finds, reports and refuses."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcli.cli.main import main

MODULES = '''
import torch, torch.nn.functional as F
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from dlcli import DataSpec


class Spoil(Function):
    @staticmethod
    def forward(ctx, x, change):
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return ctx.change(g), None


class Block(nn.Module):
    """Two linear layers; `change` spoils the gradient of the second one's weight."""
    change = staticmethod(lambda g: g)
    width, scale = 4, 1.0

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(self.width, self.width)
        self.head = Scaled(self.width, self.change, self.scale)

    def forward(self, x):
        return self.head(self.encoder(x).tanh())


class Scaled(nn.Module):
    def __init__(self, width, change, scale):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, width))
        self.change, self.scale = change, scale

    def forward(self, x):
        return F.linear(x, Spoil.apply(self.weight, self.change)) * self.scale


class Sound(Block):
    pass


class TinySignFlipped(Block):
    """The gradient has a size of 1e-6, and its sign is wrong."""
    change = staticmethod(torch.neg)
    scale = 1e-6


class OffByPerMille(Block):
    change = staticmethod(lambda g: g * 1.0009)


def one_of_200(g):
    g = g.clone()
    g[1, 37] *= 1.05
    return g


class OneOf200(Block):
    change = staticmethod(one_of_200)
    width = 100


class Identity(nn.Module):
    def forward(self, x):
        return x


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.linear(x) * self.gain.detach()


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.spare = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x)


class NormOfZero(nn.Module):
    def forward(self, x):
        return x.sum() + torch.sqrt((x * 0).square().sum())


class Random(Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return 2 * g * (1 + 1e-3 * torch.rand_like(g))


class Cube(Function):
    """The first derivative is right; the second one is not, since x counts as a constant."""
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x ** 3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * x.detach() ** 2


class Once(Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return 2 * g


class WrongTangent(Function):
    @staticmethod
    def forward(x):
        return x * 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return 2 * g

    @staticmethod
    def jvp(ctx, t):
        return 3 * t


class Failing(Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        raise RuntimeError("no such kernel")


class WrongInEval(nn.Module):
    def forward(self, x):
        return x * 2 if self.training else Spoil.apply(x * 2, lambda g: g * 0.5)


class WrongInTrain(nn.Module):
    def forward(self, x):
        return Spoil.apply(x * 2, lambda g: g * 0.5) if self.training else x * 2


class WrongOnFloat32(nn.Module):
    def forward(self, x):
        return Spoil.apply(x, (lambda g: g * 1.1) if x.dtype == torch.float32 else (lambda g: g))


class AtKink(nn.Module):
    """|w - w0| at w = w0, whatever w0 is."""
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4))
        self.start = None

    def forward(self, x):
        if self.start is None:
            self.start = self.w.detach().clone()
        return (self.w - self.start).abs() + x


class PoolAfterRelu(nn.Module):
    """All zeros, so that every window of the pooling is a tie."""
    def __init__(self):
        super().__init__()
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool1d(2)

    def forward(self, x):
        return self.pool(self.relu(-x.square())) + x.mean()


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class Running(nn.Module):
    """The output depends on a buffer that each pass in training changes."""
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x):
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return (x - 3 * self.mean.clone()) ** 2 if not self.training else x ** 2 + self.mean.norm().detach() * 0


class Remembering(nn.Module):
    """Passes a tensor around the call, so that a copy of what passes is another function."""
    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, x):
        y = x * 2
        return self.inner(y) * (2 if self.inner.seen is y else 1)


class Inner(nn.Module):
    def forward(self, y):
        self.seen = y
        return y + 1


class Cell(nn.Module):
    """One linear layer, called three times; `detach` forgets the gradient of the later calls."""
    detach = False

    def __init__(self):
        super().__init__()
        self.step = nn.Linear(3, 3)

    def forward(self, x):
        for t in range(3):
            own = self.step.weight
            if self.detach and t:
                x = F.linear(x, own.detach(), self.step.bias).tanh()
            else:
                x = self.step(x).tanh()
        return x


class ForgetfulCell(Cell):
    detach = True


class RarelyWrong(nn.Module):
    """Wrong in the objects of these numbers. One is built to look at, one a mode, then one a further point."""
    numbers, built = (), 0

    def __init__(self):
        super().__init__()
        type(self).built += 1
        self.wrong = self.built in self.numbers
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self, x):
        return x * Spoil.apply(self.weight, (lambda g: 2 * g) if self.wrong else (lambda g: g))


class WrongAtOnePoint(RarelyWrong):
    numbers = (2,)


class WrongAtTheFirstAndTheLastPoint(RarelyWrong):
    numbers = (2, 6)


class Sized(nn.Module):
    def __init__(self, width: int, *, gain: float = 1.0, bias: bool = True, kind: str = "a"):
        super().__init__()
        assert type(gain) is float and type(bias) is bool and type(kind) is str
        self.linear = nn.Linear(width, 2, bias=bias)
        self.gain = gain

    def forward(self, x):
        return self.linear(x) * self.gain


class Classifier(nn.Module):
    """As `dlcli train` takes it."""
    def __init__(self, spec: DataSpec, *, hidden: int = 4):
        super().__init__()
        self.spec = spec
        self.body = nn.Linear(spec.input_shape[0], hidden)
        self.head = nn.Linear(hidden, spec.outputs)

    def forward(self, x):
        return self.head(self.body(x).tanh())


instance = nn.Linear(3, 2)


def factory(width: int = 3) -> nn.Linear:
    return nn.Linear(width, 2)


def bare(width=3):
    raise SystemExit("called")


def lying() -> nn.Linear:
    return "no module"


def of_text() -> str:
    raise SystemExit("called")


class NoModule:
    def __init__(self):
        raise SystemExit("called")


class Argmax(nn.Module):
    def forward(self, x):
        return x.argmax(-1)


class Lookup(nn.Module):
    def forward(self, tokens):
        return tokens * 1.5


class Texts(nn.Module):
    def forward(self, x):
        return ["a", 3]


class Quiet(nn.Module):
    def forward(self, x):
        return {"a": [x * 2, (x ** 2).sum()], "b": None}
'''

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`dlcli gradcheck WORDS` in this process, in a folder with the modules above: exit code, stdout, stderr."""
    (tmp_path / "mine_to_check.py").write_text(MODULES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine_to_check", raising=False)

    def gradcheck(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dlcli", "gradcheck", *(w.replace("mine:", "mine_to_check:") for w in words)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return gradcheck


def document(run: Run, *words: str, code: int = 0) -> dict[str, Any]:
    got, out, err = run(*words, "--json")
    assert got == code, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def rows(target: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["tensor"]: row for row in target["rows"]}


# ---------------------------------------------------------------- what torch's own check misses


def torch_says(name: str, width: int, *, fast: bool = False) -> bool:
    """The result of torch.autograd.gradcheck for the module's parameters, in float64."""
    import importlib

    torch.manual_seed(0)
    module = getattr(importlib.import_module("mine_to_check"), name)().double()
    names, parameters = zip(*module.named_parameters(), strict=True)
    x = torch.randn(2, width, dtype=torch.float64)

    def function(*tensors: torch.Tensor) -> Any:
        return torch.func.functional_call(module, dict(zip(names, tensors, strict=True)), (x,))

    return bool(torch.autograd.gradcheck(function, parameters, fast_mode=fast, raise_exception=False))


@pytest.mark.parametrize(
    ("name", "width", "fast"), [("TinySignFlipped", 4, False), ("OffByPerMille", 4, False), ("OneOf200", 100, True)]
)
def test_bug_that_slips_through_torchs_check_is_found_and_named(run: Run, name: str, width: int, fast: bool) -> None:
    code, _, err = run(f"mine:{name}", "--input", f"2,{width}")
    assert torch_says(name, width, fast=fast), "torch's check has become better: look for another example"
    assert code == 7
    assert f"error: mine_to_check:{name}: head (Scaled): gradient of head.weight is wrong at [" in err
    if name == "OneOf200":
        assert "head.weight is wrong at [1, 37] analytic" in err


def test_the_sound_module_passes(run: Run) -> None:
    code, out, _ = run("mine:Sound", "--input", "2,4")
    assert code == 0
    assert out.splitlines()[-1] == "pass: a relative error of 1.0e-05 would have been caught in any tensor; seed 0"


def test_disagreement_with_torch_is_shown(run: Run) -> None:
    _, out, _ = run("mine:OffByPerMille", "--input", "2,4")
    assert "mine_to_check:OffByPerMille: torch.autograd.gradcheck, train disagrees, it says: passes" in out
    report = document(run, "mine:Sound", "--input", "2,4")["targets"][0]
    assert [o["check"] for o in report["opinions"]] == [f"torch.autograd.gradcheck, {m}" for m in ("train", "eval")]
    assert all(o["agrees"] and o["passes"] for o in report["opinions"])


def test_second_opinion_on_double_backward(run: Run) -> None:
    report = document(run, "mine:Cube", "--input", "2,3", "--order", "2", code=7)["targets"][0]
    theirs = {o["check"]: o["passes"] for o in report["opinions"]}
    assert theirs["torch.autograd.gradcheck, train"] and not theirs["torch.autograd.gradgradcheck, train"]


# ---------------------------------------------------------------- findings


def test_detached_parameter(run: Run) -> None:
    code, out, err = run("mine:Detached", "--input", "2,3")
    assert code == 7
    assert "autograd has no gradient for it, but the output depends on it" in out
    assert "error: mine_to_check:Detached: (model) (Detached): gradient of gain is wrong at [" in err


def test_unused_parameter_is_told_and_fails_only_strict(run: Run) -> None:
    report = document(run, "mine:Unused", "--input", "2,3")["targets"][0]
    assert report["verdict"] == "pass"
    assert rows(report)["spare.weight"]["verdict"] == "unused"
    assert rows(report)["spare.weight"]["reason"] == "the output does not depend on it"
    code, _, err = run("mine:Unused", "--input", "2,3", "--strict")
    assert code == 7
    assert err.splitlines()[-1] == (
        "error: mine_to_check:Unused: undecided or unused: spare.weight, spare.bias (--strict)"
    )


def test_gradient_that_is_not_finite(run: Run) -> None:
    code, out, err = run("mine:NormOfZero", "--input", "2,3")
    assert code == 7
    assert "6 of 6 elements of the gradient are not finite" in out
    assert "(model) (NormOfZero): gradient of input is wrong at [0, 0] analytic nan" in err


def test_backward_that_is_not_deterministic(run: Run) -> None:
    report = document(run, "mine:Random", "--input", "2,3", code=7)["targets"][0]
    assert any(
        f["text"].startswith("in train mode backward is not deterministic: two gradients of input differ by")
        and f["verdict"] == "fail"
        for f in report["findings"]
    )


def test_double_backward_is_checked_with_order_2_only(run: Run) -> None:
    assert run("mine:Cube", "--input", "2,3")[0] == 0
    report = document(run, "mine:Cube", "--input", "2,3", "--order", "2", code=7)["targets"][0]
    second = [row for row in report["rows"] if row["kind"] == "second order"]
    assert [row["verdict"] for row in second] == ["wrong"]
    missing = document(run, "mine:Once", "--input", "2,3", "--order", "2")["targets"][0]
    assert missing["verdict"] == "undecided"
    assert missing["findings"][0]["text"].startswith("in train mode there is no double backward: ")


def test_forward_mode_is_checked_when_asked_for(run: Run) -> None:
    assert run("mine:WrongTangent", "--input", "2,3")[0] == 0
    report = document(run, "mine:WrongTangent", "--input", "2,3", "--forward-mode", code=7)["targets"][0]
    assert [r["verdict"] for r in report["rows"] if r["kind"] == "forward mode"] == ["wrong"]
    missing = document(run, "mine:Cube", "--input", "2,3", "--forward-mode")["targets"][0]
    assert missing["verdict"] == "undecided"
    assert "there is no forward-mode derivative by input: " in missing["findings"][0]["text"]


def test_backward_that_raises(run: Run) -> None:
    code, _, err = run("mine:Failing", "--input", "2,3")
    assert code == 7
    assert err.splitlines()[-1] == (
        "error: mine_to_check:Failing: in train mode backward fails: no such kernel; "
        "in eval mode backward fails: no such kernel"
    )


@pytest.mark.parametrize(("name", "mode"), [("WrongInEval", "eval"), ("WrongInTrain", "train")])
def test_both_modes_are_checked(run: Run, name: str, mode: str) -> None:
    report = document(run, f"mine:{name}", "--input", "2,3", code=7)["targets"][0]
    assert rows(report)["input"]["worst"]["mode"] == mode


def test_device_is_compared_in_the_models_own_dtype(run: Run) -> None:
    assert run("mine:WrongOnFloat32", "--input", "2,3")[0] == 0
    report = document(run, "mine:WrongOnFloat32", "--input", "2,3", "--device", "cpu", code=7)["targets"][0]
    (row,) = [r for r in report["rows"] if r["kind"] == "device"]
    assert row["verdict"] == "wrong"
    assert row["reason"] == "cpu in float32 against float64, tolerance 0.001"
    assert row["max_relative_error"] == pytest.approx(0.1, rel=1e-3)
    assert run("mine:Sound", "--input", "2,4", "--device", "cpu")[0] == 0


def test_device_is_not_compared_where_the_model_draws(run: Run) -> None:
    report = document(run, "torch.nn:Dropout", "--input", "2,3", "--device", "cpu")["targets"][0]
    assert report["notes"] == ["cpu is not compared in train mode, where the model draws random numbers"]
    assert [r["verdict"] for r in report["rows"] if r["kind"] == "device"] == ["pass"]


# ---------------------------------------------------------------- kinks and what cannot be judged


def test_tensor_at_kinks_is_undecided_and_fails_only_strict(run: Run) -> None:
    report = document(run, "mine:AtKink", "--input", "4")["targets"][0]
    row = rows(report)["w"]
    assert (report["verdict"], row["verdict"]) == ("undecided", "undecided")
    assert row["probes"] == 0 and row["kinks"] >= 6
    assert row["reason"].endswith("probes are at kinks")
    assert run("mine:AtKink", "--input", "4", "--strict")[0] == 7


def test_failure_must_be_met_again_at_another_point(run: Run) -> None:
    target = document(run, "mine:WrongAtOnePoint", "--input", "2,3")["targets"][0]
    weight = rows(target)["weight"]
    assert (target["verdict"], weight["verdict"]) == ("undecided", "undecided")
    assert weight["reason"] == "wrong at one random point, right at others: a kink or a rare case"


def test_failure_that_is_met_at_the_last_of_the_other_points_stands(run: Run) -> None:
    target = document(run, "mine:WrongAtTheFirstAndTheLastPoint", "--input", "2,3", code=7)["targets"][0]
    assert (target["verdict"], rows(target)["weight"]["verdict"]) == ("fail", "wrong")


def test_ties_behind_a_relu_leave_that_boundary_undecided_only(run: Run) -> None:
    report = document(run, "mine:PoolAfterRelu", "--input", "2,8")["targets"][0]
    assert report["verdict"] == "pass"
    assert rows(report)["pool input"]["verdict"] == "undecided"


def test_module_that_is_no_function_is_undecided(run: Run) -> None:
    report = document(run, "mine:Counting", "--input", "2,3")["targets"][0]
    assert report["verdict"] == "undecided"
    assert report["findings"][0]["text"] == (
        "in train mode two evaluations at the same point differ: it is no function of its inputs"
    )


def test_modules_that_depend_on_identity_are_checked_without_their_boundaries(run: Run) -> None:
    report = document(run, "mine:Remembering", "--input", "2,3")["targets"][0]
    assert report["verdict"] == "pass"
    assert [row["kind"] for row in report["rows"]] == ["input"]
    assert report["notes"] == [
        "modules' inputs and outputs are not checked: its values change when what passes between modules is copied"
    ]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("Running", "4,3"), ("Cell", "2,3"), ("Quiet", "2,3"), ("Identity", "2,3")],
)
def test_sound_modules_with_habits_pass(run: Run, name: str, shape: str) -> None:
    assert document(run, f"mine:{name}", "--input", shape)["verdict"] == "pass"


def test_weight_used_three_times_must_gather_all_gradients(run: Run) -> None:
    code, _, err = run("mine:ForgetfulCell", "--input", "2,3")
    assert code == 7
    assert "gradient of step.weight is wrong" in err


# ---------------------------------------------------------------- what a target may be


def test_class_instance_factory_function_and_dlcli_model(run: Run) -> None:
    assert run("mine:Sized", "--input", "2,3", "--set", "width=3", "--set", "gain=2", "--set", "bias=no")[0] == 0
    assert run("mine:instance", "--input", "2,3")[0] == 0
    assert run("mine:factory", "--input", "2,5", "--set", "width=5")[0] == 0
    assert document(run, "mine:Cube", "--input", "2,3")["targets"][0]["class"] == "Cube"
    report = document(run, "mine:Classifier", "--input", "4,6", "--set", "spec.outputs=5", "--set", "hidden=3")
    assert rows(report["targets"][0])["head.weight"]["shape"] == [5, 3]


def test_instance_is_left_as_it_was(run: Run) -> None:
    run("mine:instance", "--input", "2,3")
    module = sys.modules["mine_to_check"].instance
    assert module.weight.dtype == torch.float32 and module.weight.grad is None
    assert not module._forward_hooks and module.training


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["mine:bare", "--input", "2,3"],
            "mine_to_check:bare is a function, and no torch.nn.Module, autograd Function or factory of a module; "
            "a factory is annotated with what it returns, such as -> nn.Module: it was not called",
        ),
        (
            ["mine:of_text", "--input", "2,3"],
            "mine_to_check:of_text is a function, and no torch.nn.Module, autograd Function or factory of a module; "
            "a factory is annotated with what it returns, such as -> nn.Module: it was not called",
        ),
        (
            ["mine:NoModule", "--input", "2,3"],
            "mine_to_check:NoModule is the class NoModule, no torch.nn.Module, autograd Function or factory of a "
            "module: it was not called",
        ),
        (
            ["mine:Detachd", "--input", "2,3"],
            "module 'mine_to_check' has no 'Detachd': did you mean Detached?",
        ),
        (
            ["os:getcwd", "--input", "2,3"],
            "os:getcwd is a builtin_function_or_method, no torch.nn.Module, autograd Function or factory of a "
            "module: it was not called",
        ),
        (
            ["torch.nn:LazyLinear", "--input", "2,3", "--set", "out_features=2"],
            "torch.nn:LazyLinear: weight has no shape before the first call: build it with its sizes",
        ),
        (
            "torch.nn:Linear --input 2,3 --set in_features=3 --set out_features=2 --set bias=x".split(),
            "bias = 'x' is not true or false",
        ),
        (["mine:lying", "--input", "2,3"], "mine_to_check:lying is annotated to return a module, but returned a str"),
        (["no_such_package:Net", "--input", "2"], "no module 'no_such_package' on the Python path, needed for "
         "'no_such_package:Net'"),
        (
            ["mine:instance", "--input", "2,3", "--set", "a=1"],
            "mine_to_check:instance is a module that is built already: --set a has no effect",
        ),
        (
            ["mine:Cube", "--input", "2,3", "--set", "a=1"],
            "mine_to_check:Cube is an autograd Function: it has no constructor for --set",
        ),
        (
            ["mine:Sized", "--input", "2,3", "--set", "widht=3"],
            "unknown setting widht of mine_to_check:Sized: did you mean width?",
        ),
        (["mine:Sized", "--input", "2,3"], "mine_to_check:Sized needs width: --set width=VALUE"),
        (["mine:Sized", "--input", "2,3", "--set", "width=x"], "width = 'x' is not a whole number"),
        (["mine:Sized", "--input", "2,3", "--set", "width"], "--set 'width' is not of the form KEY=VALUE"),
        (
            ["mine:instance"],
            "mine_to_check:instance needs the shapes of its arguments: --input 2,3,8,8, or --input int:2,7:0..50",
        ),
        (
            ["mine:instance", "--input", "2,4"],
            "mine_to_check:instance does not take --input 2,4: addmm: mat1 and mat2 shapes cannot be multiplied "
            "(2x4 and 3x2)",
        ),
        (
            ["mine:Argmax", "--input", "2,4"],
            "mine_to_check:Argmax returns only torch.int64, no floating-point numbers: there is no derivative",
        ),
        (
            ["mine:Texts", "--input", "2,4"],
            "mine_to_check:Texts returns a list, no floating-point numbers: there is no derivative",
        ),
        (
            ["mine:Lookup", "--input", "int:2,4:0..3"],
            "mine_to_check:Lookup has no parameters and no floating-point inputs: there is nothing to differentiate by",
        ),
    ],
)  # fmt: skip
def test_refusals_are_one_sentence_and_exit_2(run: Run, words: list[str], message: str) -> None:
    code, out, err = run(*words)
    assert (code, out, err) == (2, "", f"error: {message}\n")
