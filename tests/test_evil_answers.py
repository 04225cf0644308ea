"""Answers to samples (eval/test-DIGEST.npz) that were made to harm: refused in a sentence, or read as they are."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import evil, evil_answers
from tests.test_evil import _an_alarm_is_an_error, call  # noqa: F401


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs 1 and 2, two models of iris, both measured."""
    root = tmp_path_factory.mktemp("measured") / "runs"
    for seed in ("1", "2"):
        words = ("train", "mlp", "--data", "iris", "--epochs", "1", "--set", "model.hidden=4", "--seed", seed)
        call(*words, "--eval", "test", "--device", "cpu", "--quiet", "--runs-dir", str(root))
    return root


@pytest.fixture
def root(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = Path(shutil.copytree(measured, tmp_path / "runs"))
    monkeypatch.chdir(root / "1")
    yield root
    os.chdir("/")
    subprocess.run(["rm", "-rf", str(tmp_path)], check=True)


# Gigabytes take seconds.
LARGE = ("a file of gigabytes", "a member that unpacks to a gigabyte")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in evil_answers.KINDS]
)
def test_answers_that_were_made_to_harm(name: str, root: Path) -> None:
    """Every command that opens them, and those that only list, copy or check them."""
    damage, is_read = evil_answers.KINDS[name]
    damage(root / "1")
    where = ("--runs-dir", str(root))
    ended = call("runs", "compare", "1", "2", "--metric", "test/accuracy", "--json", *where, refused=None)
    # Two runs are compared sample by sample, or, where that is refused, it is said why.
    if not ended.exit_code:
        samples = json.loads(ended.stdout)["groups"][1].get("samples")
        assert bool(samples) == is_read or name.startswith(("target", "predicted", "probability")), ended
    for what in ("confusion", "errors", "calibration", "roc"):
        call("plot", "1", "--what", what, *where, refused=not is_read if what in ("confusion", "errors") else None)
        assert not (root / evil.MARKER).exists(), "it executed what came with the run"
    call("plot", "1", *where, refused=None)
    call("runs", "show", "1", *where)
    call("runs", *where)
    call("runs", "verify", "1", *where, refused=None)
    call("runs", "archive", "1", "--output", str(root / "a.tar"), *where, refused=None)
    call("eval", "1", *where)  # measures again, and replaces the record
    call("plot", "1", "--what", "confusion", *where)
    assert not (root / evil.MARKER).exists(), "it executed what came with the run"


def test_there_are_many_kinds() -> None:
    assert len(evil_answers.KINDS) >= 60
