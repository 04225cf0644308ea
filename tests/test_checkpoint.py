"""Weights are restored bit for bit, damage is reported, and there is always a readable checkpoint."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from dlcli.checkpoints import checkpoint
from dlcli.core.errors import RunError


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


def test_the_best_may_share_the_bytes_of_the_last(tmp_path: Path) -> None:
    path = save(tmp_path, "last", 2)
    best = checkpoint.save(tmp_path, "best", weights=path, state={"epoch": 1, "step": 2, "metrics": {}})
    assert (best / "model.safetensors").samefile(path / "model.safetensors")
    assert checkpoint.load(tmp_path, "best").state["step"] == 2


def save_last(folder: Path, step: int, *, best: int, keep_last: int) -> None:
    state = {"epoch": 1, "step": step, "metrics": {}, "training": {"best": {"step": best}}}
    path = checkpoint.save(folder, "last", weights=weights(float(step)), state=state)
    checkpoint.retain(folder, path, keep_last=keep_last)


def test_the_newest_last_ones_are_kept_each_with_its_best(tmp_path: Path) -> None:
    save(tmp_path, "best", 10)
    save_last(tmp_path, 10, best=10, keep_last=2)
    save_last(tmp_path, 20, best=10, keep_last=2)
    save(tmp_path, "best", 30)
    save_last(tmp_path, 30, best=30, keep_last=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best-10", "best-30", "last-20", "last-30"]
    save_last(tmp_path, 40, best=30, keep_last=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best-30", "last-30", "last-40"]
    save_last(tmp_path, 40, best=30, keep_last=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best-30", "last-40-2"]


def test_those_of_a_course_that_was_left_go_with_the_first_save_of_the_new_one(tmp_path: Path) -> None:
    """last-30 was damaged, so that training continued from last-20, and now has a different best."""
    for step in (10, 20, 30):
        save(tmp_path, "best", step)
        save_last(tmp_path, step, best=step, keep_last=9)
    save(tmp_path, "best", 20)
    save_last(tmp_path, 22, best=20, keep_last=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best-20-2", "last-20", "last-22"]


def test_a_kill_between_the_new_and_the_removal_of_the_old_leaves_the_new(tmp_path: Path) -> None:
    for step in (9, 10):
        save(tmp_path, "last", step)
    (tmp_path / ".tmp-abc").mkdir()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".tmp-abc", "last-10", "last-9"]
    assert checkpoint.load(tmp_path, "last").state["step"] == 10


def test_a_damaged_one_is_passed_over_for_an_intact_one_and_named(tmp_path: Path) -> None:
    for step in (1, 2):
        path = save(tmp_path, "last", step)
    file = path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    found = checkpoint.load(tmp_path, "last")
    assert found.state["step"] == 1
    assert found.damage == (f"{file} is damaged: its sha256 is not the recorded one",)


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
