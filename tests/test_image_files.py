"""Images that are decoded batch by batch: the same bits as from memory or the cache, whatever dies or changes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcli import TrainConfig, train
from dlcli.core.errors import DataError, ResourceError
from dlcli.data.images import encoded
from dlcli.data.images.encoded import Encoded
from dlcli.data.prepare import prepare
from dlcli.data.readers.images import read_image
from dlcli.experiment.build import build
from dlcli.runs.run import Run
from dlcli.training.train import resume
from tests.test_image_folder import cache, folder, photo, read
from tests.test_image_sources import packed, runner
from tests.test_resume import assert_same, stopping_at

__all__ = ["cache"]  # a fixture

STORAGES = ("memory", "cache", "files")


def config(storage: str, data: str = "images:photos", **changes: Any) -> TrainConfig:
    options = {"size": 8, "storage": storage, **changes.pop("data_options", {})}
    settings: dict[str, Any] = {"augment": ("crop=0.3", "flip", "color", "cutmix"), "batch_size": 7, "epochs": 2}
    return TrainConfig("cnn", data=data, data_options=options, device="cpu", threads=1, **(settings | changes))


def pending(root: Path, **options: Any) -> Encoded:
    found = read(root, storage="files", **options).encoded["x"]
    assert isinstance(found, Encoded)
    return found


def test_pixels_and_statistics_are_those_of_the_other_storages(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", count=20, size=(40, 30))
    whole, files = read(root, size=16), read(root, size=16, storage="files")
    assert files.x.is_meta and files.x.shape == whole.x.shape and files.digest == whole.digest
    rows = torch.tensor([5, 39, 0, 5])
    found = files.encoded["x"].take(rows)
    assert torch.equal(found, whole.x[rows]) and found.is_contiguous(memory_format=torch.channels_last)
    datasets = [
        prepare(source, val_fraction=0.2, test_fraction=None, normalize=True, seed=0) for source in (whole, files)
    ]
    assert datasets[0].preprocessing == datasets[1].preprocessing
    assert datasets[1].bytes == 40 * 8
    assert read(root, size=16, storage="files").digest == files.digest


def test_a_channel_that_is_constant_has_deviation_1(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("a/1.png", "b/1.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8), (0, 7, 255)).save(tmp_path / "photos" / name)
    datasets = [
        prepare(read(tmp_path / "photos", storage=name), val_fraction=0, test_fraction=0, normalize=True, seed=0)
        for name in ("memory", "files")
    ]
    assert datasets[0].preprocessing == datasets[1].preprocessing
    assert datasets[1].preprocessing.std == (1, 1, 1)


@pytest.mark.parametrize("crop", [(), ("crop",)])
def test_a_storage_changes_no_bit_and_workers_neither(crop: tuple[str, ...], tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        folder(tmp_path / "photos" / split, count=12, size=(20, 16))
    runs = []
    for storage, workers in (("memory", "auto"), ("cache", 1), ("files", 1), ("files", 3)):
        made = config(storage, augment=(*crop, "flip", "mixup"), data_options={"workers": workers})
        list(train(made, runs_dir=tmp_path / f"{storage}{workers}"))
        runs.append(Run(tmp_path / f"{storage}{workers}", 1))
    assert runs[0].config().data_options.get("stored_size", 0) == (9 if crop else 0)
    for other in runs[1:]:
        assert_same(runs[0], other)
        assert runs[0].data() == other.data()


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("stops", [(1,), (2, 1, 3)], ids=str)
def test_the_resume_matrix(storage: str, stops: tuple[int, ...], tmp_path: Path) -> None:
    folder(tmp_path / "photos", count=15)
    made = config(storage)
    list(train(made, runs_dir=tmp_path))
    list(train(made, runs_dir=tmp_path, stop=stopping_at(stops[0])))
    stopped = Run(tmp_path, 2)
    for step in stops[1:]:
        list(resume(stopped, stop=stopping_at(step)))
    list(resume(stopped))
    assert_same(Run(tmp_path, 1), stopped)


def test_another_storage_or_number_of_workers_leaves_a_resume_exact(tmp_path: Path) -> None:
    folder(tmp_path / "photos", count=10)
    call = runner()
    words = ("train", "cnn", "--data", "images:photos", "--epochs", "1", "--augment", "crop,flip", "--image-size", "8")
    assert call(*words)[0] == 0
    code, _, told = call("resume", "1", "--epochs", "2", "--storage", "files", "--workers", "1", "--exact")
    assert code == 0 and "exact: yes" in told, told


def test_a_training_on_a_zip_in_files(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", count=10)
    file = packed(root, tmp_path / "p.zip")
    whole, files = read(root, size=8), read(file, size=8, storage="files")
    assert torch.equal(files.encoded["x"].take(torch.arange(20)), whole.x)


def test_predict_cuts_an_image_as_the_evaluation_does(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", count=3, size=(40, 30))
    built = build(config("memory", data=f"images:{root}", val_fraction=0.0, test_fraction=0.0))
    about = built.dataset.preprocessing
    assert about.stored_size == 9 and about.spec.input_shape == (3, 8, 8)
    x, _ = built.dataset.train.rows.take(slice(0, 2))
    for k in range(2):
        raw = read_image(root / f"ants/{k}.png", (3, 8, 8), crop="centre", stored_size=9)
        assert torch.equal(about.apply(raw[None])[0], x[k])


# What dies or changes


def test_a_worker_that_is_killed_ends_the_training_with_a_sentence_and_it_can_be_resumed(tmp_path: Path) -> None:
    folder(tmp_path / "photos", count=30)
    made, pools = config("files"), []
    list(train(made, runs_dir=tmp_path))
    before = encoded.new_pool

    def noted(workers: int) -> Any:
        pools.append(before(workers))
        return pools[-1]

    count = iter(range(100))

    def killing() -> None:
        if next(count) == 2:
            for process in list(pools[-1]._processes.values()):
                os.kill(process.pid, signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(encoded, "new_pool", noted)
        with pytest.raises(ResourceError) as caught:
            list(train(made, runs_dir=tmp_path, stop=killing))
    assert caught.value.exit_code == 6
    assert str(caught.value) == (
        "a process that decodes images died, killed or for lack of memory: try again with more of it free, or with "
        "fewer --workers"
    )
    run = Run(tmp_path, 2)
    assert run.info()["status"] == "failed"
    list(resume(run))
    assert_same(Run(tmp_path, 1), run)


@pytest.mark.slow
def test_a_training_that_is_killed_leaves_no_process_and_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    folder(tmp_path / "photos", count=150)
    words = ["-m", "dlcli", "train", "cnn", "--data", "images:photos", "--storage", "files", "--image-size", "8"]
    words += ["--epochs", "40", "--batch-size", "16", "--checkpoint-every", "20steps", "--augment", "flip", "--device"]
    words += ["cpu", "--set", "threads=1"]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    running = subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    folder_ = tmp_path / "runs/2/checkpoints"
    deadline = time.monotonic() + 120
    while not list(folder_.glob("last-*")) and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    running.kill()
    running.wait()
    assert children
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    run = Run(tmp_path / "runs", 2)
    assert run.info()["status"] == "dead"
    list(resume(run))
    assert_same(Run(tmp_path / "runs", 1), run)


def test_a_file_that_changes_while_it_is_trained_on_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", count=5)
    images = pending(root)
    images.take(torch.arange(10))
    photo(root / "bees/0.png", seed=77)
    with pytest.raises(DataError) as caught:
        images.take(torch.arange(10))
    assert str(caught.value) == "image bees/0.png has changed since the training read it first: restore it"
    (root / "bees/0.png").unlink()
    with pytest.raises(DataError) as caught:
        images.take(torch.tensor([5]))
    assert "image bees/0.png cannot be read: No such file or directory since" in str(caught.value)


def test_what_is_read_ahead_and_never_taken_is_forgotten(tmp_path: Path) -> None:
    images = pending(folder(tmp_path / "photos", count=10))
    for k in range(15):
        images.prefetch(torch.tensor([k]))
    assert len(images._ahead) == 8
    assert len(images.take(torch.tensor([0, 1]))) == 2 and len(images._ahead) <= 8


def test_auto_takes_files_where_the_disk_is_too_small_for_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from dlcli.data.images import cache as module
    from dlcli.data.images.cache import Storage

    root = folder(tmp_path / "photos", count=40, size=(64, 64))
    monkeypatch.setattr(module, "Storage", Storage)
    monkeypatch.setattr(Storage.__new__, "__defaults__", (100_000,))
    assert read(root).mapped
    usage = shutil._ntuple_diskusage(9, 9, 200_000)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert read(root).mapped
    source = read(root, size=65)
    assert source.encoded and "decoded batch by batch" in source.notes[0]


# dlcli cache


def test_the_cache_is_listed_and_cleared(cache: Path, tmp_path: Path) -> None:
    import json

    call = runner()
    assert call("cache") == (0, "", f"{cache.parent} holds no decoded images and no tables\n")
    root = folder(tmp_path / "photos", count=4)
    read(root, size=16)
    read(root, size=8, storage="files")
    read(folder(tmp_path / "other", count=3), size=8)
    found = json.loads(call("cache", "--json")[1])
    assert [(row["folder"], row["images"], row["size"]) for row in found] == [
        (f"{tmp_path}/other", 6, "3x8x8"), (f"{root}", 8, None), (f"{root}", 8, "3x16x16"),
    ]  # fmt: skip
    assert all(row["bytes"] > 0 for row in found)
    code, out, told = call("cache")
    assert code == 0 and len(out.splitlines()) == 4 and "`dlcli cache clear` frees the space" in told
    assert call("cache", "clear", "nothing") == (
        2, "", "error: nothing is no entry of the cache: `dlcli cache` lists them\n"
    )  # fmt: skip
    assert call("cache", "clear", "--older-than", "1d")[2] == "nothing was removed\n"
    assert call("cache", "clear", "--older-than", "x")[0] == 2
    assert json.loads(call("cache", "clear", found[0]["entry"], "--json")[1]) == found[:1]
    assert len(json.loads(call("cache", "--json")[1])) == 2
    old = next(cache.glob("*.moments")).name
    for path in cache.glob(f"{old[:64]}*"):
        os.utime(path, (1, 1))
    assert len(json.loads(call("cache", "clear", "--older-than", "30d", "--json")[1])) == 1
    (cache / ".tmp-0123-x").touch()
    assert call("cache", "clear", "photos")[0] == 0 and (cache / ".tmp-0123-x").exists()
    read(root)
    assert "freed" in call("cache", "clear")[2]
    assert {path.suffix for path in cache.iterdir()} <= {".lock"}
    assert len(read(root).x) == 8
