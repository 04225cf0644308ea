"""dlcli gradcheck on built-in targets: its output, and the numeric derivatives."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcli.cli.main import main
from dlcli.config.registry import MODELS
from dlcli.core.errors import ConfigError
from dlcli.gradcheck import check, inputs, numeric, selftest, targets
from dlcli.gradcheck.mutations import MUTATIONS
from dlcli.models.blocks import ACTIVATIONS

Run = Callable[..., tuple[int, str, str]]
QUICK = check.Settings(second_opinion=False)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`dlcli gradcheck WORDS` in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def gradcheck(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dlcli", "gradcheck", *words])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return gradcheck


# ---------------------------------------------------------------- targets


def test_every_built_in_model_activation_and_loss_is_a_target() -> None:
    names = set(targets.names())
    assert set(MODELS) <= names
    assert set(ACTIVATIONS) - {"none"} <= names
    assert {"mse", "l1", "huber", "bce", "cross-entropy", "label-smoothing", "next-token"} <= names
    assert len(targets.cases(["all"])) >= len(names)


def test_dropout_is_on_wherever_a_model_has_it() -> None:
    import inspect

    from dlcli.config.own_code import load

    for name, variants in targets._MODELS.items():
        if "dropout" in inspect.signature(load(MODELS[name].target)).parameters:
            assert any(settings.get("dropout") for _, _, settings in variants), name


@pytest.mark.parametrize("name", ["linear", "mlp", "simple-cnn", "self-attention", "relu", "huber", "label-smoothing"])
def test_built_in_target_passes(name: str) -> None:
    for case in targets.built_in_cases(name):
        report = check.check_case(case, settings=QUICK)
        assert report.verdict == "pass" and report.clean
        assert report.smallest_caught is not None and report.smallest_caught < 2e-5
        assert not report.findings and not report.notes and report.blame is None


def test_what_is_checked_of_a_model() -> None:
    (case,) = targets.built_in_cases("simple-cnn")
    report = check.check_case(case, settings=QUICK)
    assert [(row.tensor, row.kind) for row in report.rows] == [
        ("convolution.weight", "parameter"),
        ("convolution.bias", "parameter"),
        ("output.weight", "parameter"),
        ("output.bias", "parameter"),
        ("input", "input"),
        ("convolution input", "module input"),
        ("convolution output", "module output"),
        ("output input", "module input"),
        ("output output", "module output"),
        ("(model) output", "module output"),
    ]
    bias = report.rows[1]
    assert bias.probes + bias.kinks + bias.unresolved == (2 + 3) * 2 * 2  # directions and elements, objectives, modes


def test_unknown_target_names_the_nearest(run: Run) -> None:
    assert run("atention") == (
        2, "", "error: unknown target 'atention': did you mean attention or self-attention or causal-attention?\n"
    )  # fmt: skip


def test_input_and_set_are_for_own_modules(run: Run) -> None:
    message = "error: --input, --data and --set are for your own package.module:Name, but mlp is built in\n"
    assert run("mlp", "--input", "2,3") == (2, "", message)


def test_no_target(run: Run) -> None:
    code, _, err = run()
    assert code == 2
    assert err.startswith("error: name a target: all, one of linear, logistic, mlp,")
    assert err.endswith("or your own package.module:Name\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_device_that_is_not_there_is_exit_6(run: Run) -> None:
    message = "error: device = cuda, but this machine has no usable CUDA device: use --device cpu or auto\n"
    assert run("mlp", "--device", "cuda") == (6, "", message)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_backward_agrees(run: Run) -> None:
    assert run("attention", "cnn", "rnn", "--device", "cuda")[0] == 0


# ---------------------------------------------------------------- output


def test_table_and_last_line(run: Run) -> None:
    code, out, err = run("linear")
    lines = [line for line in out.splitlines() if line]
    assert code == 0
    assert lines[0] == "linear (Linear, 6 parameters): pass"
    assert lines[1].split("  ")[0] == "tensor"
    for heading in ("shape", "|gradient|", "max abs error", "max rel error", "probes", "kinks", "verdict"):
        assert heading in lines[1]
    assert any(line.startswith("linear.weight  1x5") and line.endswith("pass") for line in lines)
    assert lines[-3:] == [
        "inputs and outputs of modules: 3 of 3 pass",
        "torch.autograd.gradcheck agrees",
        "pass: a relative error of 1.0e-05 would have been caught in any tensor; seed 0",
    ]
    assert err.startswith("1 target, ")


def test_same_seed_same_report_and_json_has_everything(run: Run) -> None:
    first, second, other = (run("bce", "linear", "--json", "--seed", seed)[1] for seed in ("3", "3", "4"))
    assert first == second != other
    report = json.loads(first)
    assert (report["verdict"], report["passed"], report["seed"], report["tolerance"]) == ("pass", True, 3, 1e-5)
    assert [target["target"] for target in report["targets"]] == ["bce", "linear"]
    row = report["targets"][1]["rows"][0]
    assert list(row) == [
        "tensor", "kind", "module", "shape", "gradient_norm", "max_absolute_error", "max_relative_error", "probes",
        "kinks", "unresolved", "verdict", "reason", "worst", "smallest_caught",
    ]  # fmt: skip
    assert {o["check"] for o in report["targets"][1]["opinions"]} == {
        "torch.autograd.gradcheck, train", "torch.autograd.gradcheck, eval",
    }  # fmt: skip


def test_exhaustive_probes_every_coordinate() -> None:
    from dlcli.gradcheck.probing import Effort

    (case,) = targets.built_in_cases("cross-entropy")
    case = type(case)(case.name, case.build, (inputs.parse("40,5"), inputs.parse("int:40:0..5")))
    counts = [
        check.check_case(case, settings=check.Settings(second_opinion=False, effort=effort)).rows[0].probes
        for effort in (Effort(), Effort(exhaustive=True))
    ]
    assert counts[0] <= (2 + 8) * 4 and counts[1] == (2 + 200) * 4


def test_the_process_is_left_as_it_was() -> None:
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    check.check_case(targets.built_in_cases("mse")[0], settings=QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    assert (torch.get_default_dtype(), torch.get_num_threads()) == (torch.float32, threads)


def test_the_command_imports_no_torch() -> None:
    code = "import sys, dlcli.cli.gradcheck; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("options", [["--order", "2"], ["--forward-mode"]])
def test_attention_has_second_order_and_forward_mode(run: Run, options: list[str]) -> None:
    code, out, _ = run("self-attention", "--json", *options)
    report = json.loads(out)["targets"][0]
    kind = "second order" if options[0] == "--order" else "forward mode"
    found = [row for row in report["rows"] if row["kind"] == kind]
    assert (code, report["verdict"], len(found)) == (0, "pass", 9)
    assert {row["verdict"] for row in found} <= {"pass", "unused"} and sum(row["probes"] for row in found) >= 18


# ---------------------------------------------------------------- --input


@pytest.mark.parametrize("text", ["2,3,8,8", "int:2,7:0..50", "bool:2,7", "2,3:0.1..0.9", "4"])
def test_inputs_are_read(text: str) -> None:
    assert str(inputs.parse(text)) == text
    x = inputs.parse(text).draw(torch.Generator().manual_seed(0))
    assert x.shape == inputs.parse(text).shape
    if text == "int:2,7:0..50":
        assert x.dtype == torch.int64 and 0 <= int(x.min()) and int(x.max()) <= 49


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--input '' is no shape such as 2,3,8,8 or int:2,7:0..50"),
        ("2,x", "--input '2,x' is no shape such as 2,3,8,8 or int:2,7:0..50"),
        ("2x3", "--input '2x3' is no shape such as 2,3,8,8 or int:2,7:0..50"),
        ("2,0", "--input '2,0' has no elements: every size must be at least 1"),
        ("int:2,7", "--input 'int:2,7': whole numbers need a range, such as int:2,7:0..50"),
        ("int:2:5..5", "--input 'int:2:5..5': the range is empty, since its end is excluded"),
        ("int:2:0..1.5", "--input 'int:2:0..1.5': the range of whole numbers must be whole"),
        ("2:1..-", "--input '2:1..-': the range must be two numbers, such as 0..50"),
        ("bool:2:0..1", "--input 'bool:2:0..1': true and false have no range"),
    ],
)
def test_inputs_that_are_none(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        inputs.parse(text)
    assert str(error.value) == message


# ---------------------------------------------------------------- numeric derivatives


def outcome(
    function: Callable[[float], float], analytic: float, *, floor: float = 1e-6, roundoff: float = 4e-16
) -> str:
    (found,) = numeric.probe(
        lambda t: [function(t)], centre=[function(0.0)], analytic=[analytic], floors=[floor], roundoff=[roundoff]
    )
    return found.what


def test_smooth_functions_agree_or_differ() -> None:
    assert outcome(lambda t: math.exp(t), 1.0) == "agree"
    assert outcome(lambda t: math.exp(t), 1.0 + 1e-4) == "differ"
    assert outcome(lambda t: math.sin(30 * t), 30.0) == "agree"
    assert outcome(lambda t: math.sin(30 * t), 30.01) == "differ"
    assert outcome(lambda t: 1e-6 * math.exp(t), 1e-6) == "agree"
    assert outcome(lambda t: 1 + 1e-6 * math.exp(t), -1e-6) == "differ"


def test_the_rounding_of_a_small_step_excuses_no_error_that_a_larger_one_shows() -> None:
    """At h = 1e-6 rounding is 1.2e-9; the error is 1e-9."""
    assert outcome(lambda t: 1 + 1e-6 * math.exp(t), 1.001e-6) == "differ"


def test_central_difference_of_abs_is_right_by_chance_and_not_passed() -> None:
    assert outcome(abs, 0.0) == "kink"
    assert outcome(abs, 0.5) == "kink"
    assert outcome(lambda t: max(t, 0.0) + t, 1.5) == "kink"


@pytest.mark.parametrize("place", [10**-p * s for p in (1, 2, 3, 4, 5, 5.5) for s in (1.0, 2.0, 3.0, 5.0, 8.0)])
def test_kink_beside_the_point_does_no_harm(place: float) -> None:
    def function(t: float) -> float:
        return math.exp(t) + max(t - place, 0.0)

    assert outcome(function, 1.0) in ("agree", "kink", "unresolved")
    if place > 2e-6:
        assert outcome(function, 1.0) == "agree"
        assert outcome(function, 1.001) in ("differ", "unresolved", "kink")
        assert outcome(function, 2.0) != "agree"


def test_zero_gradient_agrees() -> None:
    noise = iter(range(10**6))

    def noisy(t: float) -> float:
        return 1.0 + 2e-16 * (hash((t, next(noise))) % 5 - 2)

    assert outcome(noisy, 0.0, floor=1e-8) == "agree"
    assert outcome(noisy, 1e-8, floor=1e-8) in ("differ", "unresolved")


def test_noise_that_hides_everything_is_unresolved() -> None:
    assert outcome(lambda t: hash(t) % 1000 / 1000, 0.3, roundoff=1e-3) != "differ"


# ---------------------------------------------------------------- the check of the check


def test_there_are_enough_kinds_of_bug() -> None:
    assert len({m.name for m in MUTATIONS}) == len(MUTATIONS) >= 20


def test_planted_bugs_are_detected_and_localised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "MODELS_A_KIND", 1)
    names = {
        "sign of one element",
        "input gradient halved",
        "key detached",
        "second use not accumulated",
        "max pooling spread over its window",
        "batch statistics detached",
        "dropout without its scale",
    }
    chosen = [m for m in MUTATIONS if m.name in names]
    assert len(chosen) == len(names)
    models = {"mlp (relu)", "cnn", "attention (next token)", "attention (tied layers)", "residual block"}
    subjects = [case for case in selftest.subjects() if case.name in models]
    planted = list(selftest.plant_all(subjects, chosen, seed=1))
    assert len({p.mutation for p in planted}) == len(names)
    assert [p for p in planted if not p.localised] == []


@pytest.mark.slow
def test_module_that_is_called_twice_is_judged_call_by_call() -> None:
    """The error of the second call makes the gradient at the output of the first one wrong."""
    tied = [case for case in selftest.subjects() if case.name == "attention (tied layers)"]
    chosen = [m for m in MUTATIONS if m.name == "softmax without its sum"]
    (planted,) = selftest.plant_all(tied, chosen, seed=0)
    assert (planted.module, planted.blamed) == ("layers.0", "layers.0")


def test_wrong_loss_is_put_down_to_the_loss() -> None:
    from dataclasses import replace

    from dlcli.gradcheck.mutations import spoiled

    (case,) = [c for c in targets.built_in_cases("mlp") if c.name == "mlp (relu)"]
    right = case.loss
    assert right is not None
    broken = replace(case, loss=lambda output, label: right(spoiled(output, lambda g: g * 3), label))
    report = check.check_case(broken, settings=QUICK)
    assert report.blame is not None and report.blame.module == "(loss)"


def test_self_test_refuses_what_it_would_ignore(run: Run) -> None:
    message = "error: --self-test plants its own bugs in its own models: leave {} out\n"
    assert run("mlp", "--self-test") == (2, "", message.format("a target"))
    assert run("--self-test", "--order", "2") == (2, "", message.format("--order"))


def test_self_test_reports_a_check_that_is_blind(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tolerance of 2 % misses bugs; the self-test must report that."""

    def tolerant(*args: Any, **settings: Any) -> Any:
        return real(*args, **{**settings, "tolerance": 0.02})

    real = numeric.probe
    monkeypatch.setattr(numeric, "probe", tolerant)
    monkeypatch.setattr(selftest, "MUTATIONS", [m for m in MUTATIONS if "off by 1 %" in m.name])
    monkeypatch.setattr(selftest, "subjects", lambda: targets.built_in_cases("linear"))
    code, out, err = run("--self-test")
    assert code == 7
    assert "NO" in out
    assert err.splitlines()[-1] == (
        "error: the gradient check fails its own test: 1 kinds of bug, 1 planted: 0 detected, 0 attributed to the "
        "right module; no false alarm; seed 0"
    )
