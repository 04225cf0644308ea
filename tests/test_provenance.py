"""What run.json records about where and how a run was made, and what it must not record."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from dlcli.training.provenance import without_user
from tests.conftest import Dlcli


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://example.org/me/code.git", "https://example.org/me/code.git"),
        ("https://me:t0ken@example.org/me/code.git", "https://example.org/me/code.git"),
        ("https://t0ken@example.org:8443/code?key=t0ken#t0ken", "https://example.org:8443/code"),
        ("https://a@b:t0ken@example.org/code@2", "https://example.org/code@2"),
        ("git@example.org:me/code.git", "example.org:me/code.git"),
        ("ssh://git@example.org/code", "ssh://example.org/code"),
        ("/srv/code.git", "/srv/code.git"),
        ("", ""),
    ],
)
def test_a_remote_is_told_without_its_user(url: str, told: str) -> None:
    assert without_user(url) == told


def test_no_secret_of_the_surroundings_gets_into_a_run(
    dlcli: Dlcli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words], cwd=tmp_path, check=True)

    git("init", "--quiet")
    git("remote", "add", "origin", "https://me:t0ken-1@example.org/code.git")
    git("commit", "--quiet", "--allow-empty", "-m", "first")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "t0ken-2")
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    dlcli("train", "linear", "--data", "diabetes", "--epochs", "1", "--device", "cpu")
    files = [path for path in (tmp_path / "runs" / "1").rglob("*") if path.is_file()]
    assert len(files) > 8
    assert [str(path) for path in files if b"t0ken" in path.read_bytes()] == []
    info = json.loads((tmp_path / "runs" / "1" / "run.json").read_text())
    assert info["environment"]["MKL_CBWR"] == "COMPATIBLE"
    assert (info["git_remote"], info["git_dirty"], len(info["git_commit"])) == (
        "https://example.org/code.git", False, 40
    )  # fmt: skip
    assert info["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert info["cpu"]
