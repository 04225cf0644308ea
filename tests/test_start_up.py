"""The light files import nothing heavy: tested in a fresh process, with a counter-example that must fail."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "pandas", "sklearn", "numpy", "matplotlib", "safetensors", "tensorboard", "mlflow")


def heavy_after(program: str) -> list[str]:
    """The heavy modules that a fresh process has loaded after `program`."""
    probe = f"{program}\nimport sys; print(*(m for m in {HEAVY} if m in sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1].split()


def call(*words: str) -> str:
    return (
        f"from dlcli.cli.main import app\ntry: app({list(words)!r})\nexcept SystemExit as e: assert not e.code, e.code"
    )


@pytest.mark.parametrize(
    "module",
    [
        "dlcli",
        "dlcli.core.errors",
        "dlcli.config.settings",
        "dlcli.config.registry",
        "dlcli.runs.run",
        "dlcli.core.files",
        "dlcli.core.reading",
        "dlcli.runs.table",
        "dlcli.runs.trash",
        "dlcli.core.options",
        "dlcli.core.spec",
        *(
            f"dlcli.cli.{name}"
            for name in (
                "train",
                "resume",
                "evaluate",
                "predict",
                "generate",
                "export",
                "gradcheck",
                "check",
                "runs",
                "listing",
                "recipes",
                "cache",
            )
        ),
    ],
)
def test_light_files_import_nothing_heavy(module: str) -> None:
    assert heavy_after(f"import {module}") == []


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("--version",),
        ("train", "--help"),
        ("check", "--help"),
        ("runs",),
        ("models",),
        ("models", "--zoo"),
        ("datasets", "--json"),
        ("recipes",),
        ("cache",),
    ],
    ids=" ".join,
)
def test_light_commands_import_nothing_heavy(words: tuple[str, ...], tmp_path: object) -> None:
    assert heavy_after(call(*words)) == []


def test_help_does_not_load_rich() -> None:
    probe = call("--help") + "\nimport sys; assert 'rich.console' not in sys.modules"
    assert heavy_after(probe) == []


@pytest.mark.parametrize("words", [("runs",), ("runs", "--limit", "3"), ("models", "--json"), ("train", "--help")])
def test_light_commands_do_not_load_what_typer_checks_values_with(words: tuple[str, ...]) -> None:
    probe = call(*words) + "\nimport sys; assert 'pydantic' not in sys.modules"
    assert heavy_after(probe) == []


def test_training_on_digits_loads_only_what_it_needs(tmp_path: object) -> None:
    """Each unneeded library would delay the first step by a second or more."""
    program = call("train", "cnn", "--epochs", "1", "--runs-dir", str(tmp_path), "--quiet")
    program += "\nimport sys; assert 'torch._dynamo' not in sys.modules, 'dynamo'"
    assert sorted(heavy_after(program)) == ["numpy", "safetensors", "torch"]


def test_the_guard_bites() -> None:
    assert "torch" in heavy_after("import dlcli.config.settings\nimport torch")
