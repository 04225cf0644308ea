"""Weights come back bit for bit, damage is named, and there is always a checkpoint to read."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from dlcli.errors import RunError
from dlcli.training import checkpoint


def weights(value: float) -> dict[str, torch.Tensor]:
    conv = torch.full((4, 3, 2, 2), value).contiguous(memory_format=torch.channels_last)
    return {"conv.weight": conv, "steps": torch.tensor(7), "odd name/ü": torch.randn(3)}


def save(folder: Path, role: str, step: int) -> Path:
    state = {"epoch": 1, "step": step, "metrics": {"val/loss": 0.5}}
    return checkpoint.save(folder, role, weights=weights(float(step)), state=state)


def test_round_trip_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {"epoch": 2, "step": 10, "metrics": {"val/loss": None}}
    given = weights(0.1)
    path = checkpoint.save(tmp_path, "last", weights=given, state=state)
    assert path.name == "last-10"
    found = checkpoint.load(tmp_path, "last")
    assert found.state == state
    assert found.weights.keys() == given.keys()
    assert all(torch.equal(found.weights[name], given[name]) for name in given)


def test_any_safetensors_reader_opens_the_weights(tmp_path: Path) -> None:
    path = save(tmp_path, "best", 1)
    with safe_open(path / "model.safetensors", "np") as file:
        assert sorted(file.keys()) == ["conv.weight", "odd name/ü", "steps"]
        assert file.get_tensor("conv.weight").shape == (4, 3, 2, 2)


def test_a_newer_one_takes_the_place_of_the_older_of_its_role(tmp_path: Path) -> None:
    for step in (1, 2):
        path = save(tmp_path, "last", step)
    checkpoint.save(tmp_path, "best", weights=path, state={"epoch": 1, "step": 2, "metrics": {}})
    save(tmp_path, "last", 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best-2", "last-3"]
    assert checkpoint.load(tmp_path, "best").state["step"] == 2
    assert checkpoint.load(tmp_path, "last").state["step"] == 3


def test_a_kill_between_the_new_and_the_removal_of_the_old_leaves_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_remove", lambda path: None)
    for step in (9, 10):
        save(tmp_path, "last", step)
    (tmp_path / ".tmp-abc").mkdir()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".tmp-abc", "last-10", "last-9"]
    assert checkpoint.load(tmp_path, "last").state["step"] == 10


def test_a_damaged_one_is_passed_over_for_an_intact_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_remove", lambda path: None)
    for step in (1, 2):
        path = save(tmp_path, "last", step)
    file = path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert checkpoint.load(tmp_path, "last").state["step"] == 1


def test_no_intact_checkpoint_is_an_error_that_names_the_damage(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        checkpoint.load(tmp_path, "best")
    expected = f"there is no best checkpoint in {tmp_path}: the run stopped before one was saved"
    assert str(caught.value) == expected
    file = save(tmp_path, "best", 5) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    size = file.stat().st_size
    with pytest.raises(RunError) as caught:
        checkpoint.load(tmp_path, "best")
    assert str(caught.value) == (
        f"no intact best checkpoint in {tmp_path}: {file} is damaged: {size} of {size + 1} bytes"
    )
