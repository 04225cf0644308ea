"""What a training takes on the disk is known before it begins."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from dlcli import TrainConfig, train
from dlcli.core.errors import ResourceError
from dlcli.experiment.build import build
from dlcli.experiment.estimate import check_space, estimate
from dlcli.runs.run import Run


@pytest.mark.parametrize(
    "settings",
    [{}, {"optimizer": "adamw", "ema": 0.9, "keep_last": 3}, {"optimizer": "gd", "batch_size": "full"}],
    ids=str,
)
def test_the_checkpoints_of_a_run_fit_in_what_was_estimated(settings: dict[str, object], tmp_path: Path) -> None:
    config = TrainConfig(model="mlp", epochs=4, device="cpu", **settings)  # type: ignore[arg-type]
    if config.batch_size != "full":
        config = config.replace(checkpoint_every="11steps")
    built = build(config)
    list(train(config, runs_dir=tmp_path))
    files = list(Run(tmp_path, 1).checkpoints.rglob("*.safetensors"))
    size = sum({f.stat().st_ino: f.stat().st_size for f in files}.values())
    estimated = estimate(built)["checkpoints (bytes)"]
    assert 0.4 * estimated < size < estimated + 20_000 * len(files)  # random states and headers are small


def test_a_disk_that_is_too_small_is_told_before_a_run_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 300_000))
    config = TrainConfig(model="mlp", device="cpu")  # 17,226 parameters with momentum
    with pytest.raises(ResourceError) as caught:
        list(train(config, runs_dir=tmp_path / "new" / "runs"))
    assert str(caught.value) == (
        f"runs_dir = {tmp_path / 'new' / 'runs'} has 0.3 MB free, but the checkpoints of this training take 0.6 MB: "
        "free some, choose another --runs-dir or a smaller --keep-last"
    )
    assert not (tmp_path / "new").exists()
    check_space(build(config.replace(keep_last=1, optimizer="gd", batch_size="full", momentum=None)), "runs")
