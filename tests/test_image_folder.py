"""`--data images:FOLDER`: layouts, files, faults, and that training, eval, predict, resume and export work on it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dlcli import TrainConfig
from dlcli.checkpoints import checkpoint
from dlcli.cli.main import app
from dlcli.core.errors import ConfigError, DataError
from dlcli.data.images import layout
from dlcli.data.images.folder import images
from dlcli.data.readers.images import read_image
from dlcli.data.source import Source
from dlcli.experiment.build import build
from dlcli.runs.run import Run
from dlcli.training.train import resume
from tests.conftest import DATA_DIR, Dlcli, needs_data
from tests.trained import fit_new

BILINEAR = Image.Resampling.BILINEAR

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache; the test works in tmp_path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "dlcli" / "images"


@pytest.fixture
def call() -> Call:
    """Exit code, stdout and stderr of a command."""

    def run(*words: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, list(words), prog_name="dlcli")
        return done.exit_code, done.stdout, done.stderr

    return run


def photo(path: Path, *, seed: int = 0, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Path:
    """Noise of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(pixels, mode).save(path)
    return path


def folder(root: Path, *, count: int = 10, classes: str = "ants bees", **settings: Any) -> Path:
    """`count` images of each class."""
    for k, name in enumerate(classes.split()):
        for i in range(count):
            photo(root / name / f"{i}.png", seed=100 * k + i, **settings)
    return root


def read(root: Path, **options: Any) -> Source:
    return images(Path("unused"), path=str(root), **options)


def refused(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(root, **options)
    return str(caught.value)


# The whole way


@pytest.mark.slow
def test_train_eval_predict_resume_and_export(dlcli: Dlcli, tmp_path: Path) -> None:
    folder(tmp_path / "photos", count=30)
    (tmp_path / "photos" / "ants" / "list.txt").touch()
    done = dlcli("train", "cnn", "--data", "images:photos/", "--epochs", "1", "--set", "data.size=8")
    assert (
        f"decoding 60 images of {tmp_path}/photos, once; they are kept in {tmp_path}/cache/dlcli/images" in done.stderr
    )
    lines = [
        f"on images:{tmp_path}/photos (43 train, 5 val, 12 test samples)",
        "images of 2 classes as 3x8x8, cut to the centre; 0.0 MB, in memory",
        f"skipped in {tmp_path}/photos: 1 not images",
    ]
    log = (tmp_path / "runs/1/log.txt").read_text()
    assert all(line in done.stderr and line in log for line in lines), done.stderr
    done = dlcli("eval", "1")
    assert "decoding" not in done.stderr and "12 samples" in done.stdout
    assert "exact: yes" in dlcli("resume", "1", "--epochs", "2").stderr
    photo(tmp_path / "new/a.jpg", size=(90, 60))
    photo(tmp_path / "b.png", size=(8, 8))
    found = json.loads(dlcli("predict", "1", "b.png", "new/", "--json").stdout)
    assert [row["input"] for row in found] == ["b.png", "new/a.jpg"]
    assert {row["class"] for row in found} <= {"ants", "bees"}
    dlcli("export", "1", "--format", "safetensors")
    assert list((tmp_path / "runs/1/export").glob("*.safetensors"))
    found = json.loads((tmp_path / "runs/1/data.json").read_text())
    assert (found["crop"], found["class_names"]) == ("centre", ["ants", "bees"])
    assert json.loads((tmp_path / "runs/1/config.json").read_text())["data"] == {
        "name": f"images:{tmp_path}/photos", "size": 8, "channels": "colour", "crop": "centre",
        "interpolation": "bilinear", "invalid": "error", "storage": "auto", "stored_size": 0, "workers": "auto",
    }  # fmt: skip


@needs_data("own", "hymenoptera_data")
def test_photographs_as_people_have_them(call: Call) -> None:
    """397 photographs of every size, one .jpeg, and a GIF among the ants."""
    data = f"{DATA_DIR}/own/hymenoptera_data"
    code, _, told = call("train", "cnn", "--data", f"images:{data}", "--set", "data.size=64", "--epochs", "1")
    assert code == 0, told
    assert f"on images:{data} (196 train, 153 val, 49 test samples)" in told
    assert "images of 2 classes as 3x64x64, cut to the centre; 4.9 MB, in memory" in told
    code, out, _ = call("predict", "1", f"{data}/val/bees", "--csv")
    assert code == 0 and len(out.splitlines()) == 84


@pytest.mark.parametrize("model", ["cnn", "lenet", "mlp", "simple-cnn", "airbench", "logistic"])
@pytest.mark.parametrize("size", [32, 64])
def test_the_models_for_images_take_colour_of_any_size(model: str, size: int, call: Call, tmp_path: Path) -> None:
    folder(tmp_path / "photos", count=5)
    words = ["train", model, "--data", "images:photos", "--set", f"data.size={size}", "--epochs", "1"]
    code, _, told = call(*words)
    assert code == 0 and f"as 3x{size}x{size}," in told


def test_a_size_that_a_model_cannot_take_is_told(call: Call, tmp_path: Path) -> None:
    folder(tmp_path / "photos")
    assert call("train", "cnn", "--data", "images:photos", "--set", "data.size=2") == (
        2, "", "error: model cnn needs images of at least 4 pixels, but the data is image of 3x2x2\n"
    )  # fmt: skip
    assert call("train", "cnn", "--data", "images:photos", "--set", "data.size=5000") == (
        2, "", "error: data.size = 5000 is out of range: it must be in [0, 2048]\n"
    )  # fmt: skip
    assert call("train", "cnn", "--data", "images:photos", "--set", "data.crop=center") == (
        2, "", "error: data.crop = 'center' is not one of centre, stretch\n"
    )  # fmt: skip


# Pixels


def test_the_shorter_side_is_scaled_and_the_centre_cut_out(tmp_path: Path) -> None:
    folder(tmp_path / "photos", count=2, size=(24, 16))
    with Image.open(tmp_path / "photos/bees/1.png") as image:
        scaled = image.resize((12, 8), BILINEAR).crop((2, 0, 10, 8))
        stretched = image.resize((8, 8), BILINEAR)
    centre, stretch = read(tmp_path / "photos", size=8), read(tmp_path / "photos", size=8, crop="stretch")
    np.testing.assert_array_equal(centre.x[3], np.asarray(scaled).transpose(2, 0, 1))
    np.testing.assert_array_equal(stretch.x[3], np.asarray(stretched).transpose(2, 0, 1))
    assert centre.x.is_contiguous(memory_format=torch.channels_last) and centre.x.dtype == torch.uint8
    assert centre.digest != stretch.digest


@pytest.mark.parametrize("turned", [False, True])
def test_a_large_photograph_is_decoded_smaller_and_still_looks_the_same(turned: bool, tmp_path: Path) -> None:
    folder(tmp_path / "photos", count=1)
    coarse = np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((1280, 960)))
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    Image.fromarray(pixels).save(tmp_path / "photos/ants/0.jpg", quality=95, exif=exif)
    upright = Image.fromarray(np.rot90(pixels, -1) if turned else pixels)
    box = (0, 160, 960, 1120) if turned else (160, 0, 1120, 960)
    expected = np.asarray(upright.resize((160, 160), BILINEAR, box=box))
    found = read(tmp_path / "photos", size=160).x[0].permute(1, 2, 0).numpy()
    difference = np.abs(found.astype(int) - expected)
    assert difference.mean() < 1.5 and difference.max() < 8


@pytest.mark.parametrize("crop", ["centre", "stretch"])
@pytest.mark.parametrize("channels", ["colour", "grey"])
def test_predict_makes_the_same_pixels_as_the_training(crop: str, channels: Any, tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", count=1)
    for number, size in enumerate([(1280, 960), (33, 500), (7, 7)]):
        photo(root / f"ants/{number}.jpg", size=size)
    source = read(root, size=16, crop=crop, channels=channels)
    for row, name in enumerate(["0.jpg", "0.png", "1.jpg", "2.jpg"]):
        pixels = read_image(root / "ants" / name, source.spec.input_shape, crop=crop)
        assert torch.equal(pixels, source.x[row].float())


def test_images_of_every_mode_and_format(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", count=1, classes="z", size=(8, 8))
    (root / "a").mkdir()
    red = Image.new("RGB", (8, 8), (200, 0, 0))
    red.save(root / "a/1.JPEG", quality=100)
    red.convert("CMYK").save(root / "a/2.jpg", quality=100)
    red.convert("P", palette=Image.Palette.ADAPTIVE).save(root / "a/3.PNG")
    red.convert("RGBA").save(root / "a/4.webp", lossless=True)
    red.save(root / "a/5.bmp")
    red.save(root / "a/6.TIFF")
    red.save(root / "a/7.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), (0, 0, 200))])
    red.save(root / "a/8.jpg", format="GIF")
    x = read(root).x[:8].float()
    assert len(x) == 8
    assert (x[:, 0] - 200).abs().max() < 6 and x[:, 1:].max() < 6
    grey = tmp_path / "grey"
    (grey / "b").mkdir(parents=True)
    photo(grey / "a/1.png", mode="L", size=(8, 8))
    Image.fromarray(np.full((8, 8), 51400, np.uint16)).save(grey / "b/1.png")
    source = read(grey)
    assert source.spec.input_shape == (1, 8, 8) and source.x[1].unique().tolist() == [200]
    assert read(grey, channels="colour").spec.input_shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([(9, 7)] * 3, (3, 7, 9)), ([(9, 7), (9, 8), (9, 7)], (3, 64, 64)), ([(300, 7)] * 3, (3, 64, 64))],
)
def test_the_size_is_the_one_that_all_share(sizes: list[tuple[int, int]], expected: Any, tmp_path: Path) -> None:
    for number, size in enumerate(sizes):
        photo(tmp_path / f"photos/class{number}/a.png", size=size)
    source = read(tmp_path / "photos")
    assert source.spec.input_shape == expected and source.x.shape[1:] == expected
    assert source.resolved == {"channels": "colour"} | ({"size": 64} if expected[1] == 64 else {})


@pytest.mark.parametrize("name", ["77", "78"])  # neighbours: a guess from a few files has not seen both
def test_one_image_of_another_size_among_many_changes_the_size_of_all(name: str, tmp_path: Path) -> None:
    folder(tmp_path / "photos", count=100)
    assert read(tmp_path / "photos").spec.input_shape == (3, 10, 12)
    photo(tmp_path / f"photos/bees/{name}.png", size=(13, 10))
    source = read(tmp_path / "photos")
    assert source.spec.input_shape == (3, 64, 64) and len(source.x) == 200


# Layouts


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_splits_have_folders_of_their_own(val: str, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for number, split in enumerate(("train", val, "test")):
        folder(root / split, count=3 - number, classes="10 9 two" if split == "never" else "10 9 100")
    source = read(root)
    assert source.class_names == ("9", "10", "100")
    assert source.y is not None and source.y.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert source.val_y is not None and source.val_y.tolist() == [0, 0, 1, 1, 2, 2]
    assert source.test_y is not None and source.test_y.tolist() == [0, 1, 2]
    built = build(TrainConfig("cnn", data=f"images:{root}", epochs=1))
    parts = (built.dataset.train, built.dataset.val, built.dataset.test)
    assert [len(part or ()) for part in parts] == [9, 6, 3]
    assert built.dataset.val is not None
    x, _ = built.dataset.val.rows.take(slice(0, 1))
    with Image.open(root / val / "9/0.png") as image:
        raw = torch.tensor(np.asarray(image)).permute(2, 0, 1)
    assert torch.allclose(x[0], built.dataset.preprocessing.apply(raw[None])[0])


@pytest.mark.parametrize(("there", "sizes"), [("val", [8, 2, 2]), ("test", [9, 1, 2]), ("", [7, 1, 2])])
def test_what_has_no_folder_is_taken_from_the_training(there: str, sizes: list[int], tmp_path: Path) -> None:
    root = tmp_path / "photos"
    folder(root / "train" if there else root, count=5)
    if there:
        folder(root / there, count=1)
    data = build(TrainConfig("cnn", data=f"images:{root}", epochs=1)).dataset
    assert [len(data.train), len(data.val or ()), len(data.test or ())] == sizes


def test_a_fraction_cannot_be_given_beside_a_split_of_its_own(call: Call, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        folder(tmp_path / "photos" / split, count=4)
    words = ("train", "cnn", "--data", "images:photos", "--epochs", "1")
    for option in ("val", "test"):
        own = {"val": "validation", "test": "test"}[option]
        assert call(*words, f"--{option}-fraction", "0.3") == (
            2, "", f"error: {option}_fraction = 0.3 cannot be used with data that has a {own} set of its own\n",
        )  # fmt: skip
    assert call(*words)[0] == 0
    assert call("eval", "1", "--split", "val")[0] == 0


def test_names_order_the_classes_and_their_images_in_all_sub_folders(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for name in ("b/2.png", "b/deep/er/1.png", "10x/1.png", "9x/1.png", "train/1.png"):
        photo(root / name)
    source = read(root)
    assert source.class_names == ("10x", "9x", "b", "train")
    assert source.y is not None and source.y.tolist() == [0, 1, 2, 2, 3]


def test_a_class_that_a_split_lacks_is_told(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    folder(root / "train", count=2, classes="a b c")
    folder(root / "val", count=1, classes="a c")
    folder(root / "test", count=1, classes="c")
    (root / "train/d").mkdir()
    assert read(root).notes[1:] == (
        f"{root}/train/d holds no images: it is no class",
        f"{root}/val has no images of class b",
        f"{root}/test has no images of classes a, b",
    )


def test_what_is_skipped_is_counted_and_links_are_not_followed(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", count=2)
    photo(tmp_path / "outside/secret.png")
    (root / "ants/link.png").symlink_to(tmp_path / "outside/secret.png")
    (root / "wasps").symlink_to(tmp_path / "outside")
    for name in ("Thumbs.db", "ants/notes.txt", "ants/.DS_Store", ".git/a.png", "ants/.hidden/a.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    os.mkfifo(root / "bees/pipe.png")
    photo(root / "loose.png")
    source = read(root)
    assert len(source.x) == 4 and source.class_names == ("ants", "bees")
    assert source.notes[1] == (
        f"skipped in {root}: 3 hidden, 1 images outside the folders of classes, 2 links, 3 not images"
    )


def test_a_layout_that_cannot_be_used_is_told_with_the_mend(call: Call, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    missing = "does not exist: name a folder with a sub-folder of images for each class"
    assert call("train", "cnn", "--data", "images:photos/") == (3, "", f"error: {root} {missing}\n")
    photo(root / "a.png")
    assert refused(root / "a.png") == (
        f"{root}/a.png is neither a folder nor a file of images (.zip, .tar, .tar.gz, .tgz, .csv, .tsv, .parquet)"
    )
    assert refused(root) == (
        f"{root} has no sub-folders (1 images outside the folders of classes): put the images of each class into a "
        "folder of its own"
    )
    (root / "ants").mkdir()
    (root / "ants/a.txt").touch()
    assert refused(root) == (
        f"{root} holds no images in its sub-folders (1 images outside the folders of classes, 1 not images): known are "
        ".png, .jpg, .jpeg, .bmp, .gif, .webp, .tif, .tiff"
    )
    photo(root / "ants/1.png")
    assert refused(root) == f"{root} has images of one class only (ants): put those of another into a folder beside it"


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ("val", "{root} has val/ but no train/: name the folder that holds both"),
        ("train valid val", "{root} has both val/ and valid/: keep one of them"),
        (
            "train test/wasps",
            "{root}/test has images of class wasps, which {root}/train has not: add images of the same class there, or "
            "move the folder away",
        ),
        ("train test/empty", "{root}/test holds no images in folders of classes: fill it, or move it away"),
    ],
)
def test_splits_that_do_not_fit_each_other_are_refused(folders: str, message: str, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for name in folders.split():
        split, _, only = name.partition("/")
        if only == "empty":
            (root / split / only).mkdir(parents=True)
        else:
            folder(root / split, count=1, classes=only or "ants bees")
    assert refused(root) == message.format(root=root)


# Files that cannot be used


def damaged(root: Path) -> None:
    """Three files: cut off, no image, empty."""
    cut = photo(root / "ants/cut.jpg", size=(200, 200))
    cut.write_bytes(cut.read_bytes()[:3000])
    (root / "bees/text.JPG").write_text("<html>")
    (root / "bees/zero.png").touch()


def test_files_that_cannot_be_used_are_named(call: Call, tmp_path: Path) -> None:
    root = folder(tmp_path / "photos")
    damaged(root)
    none = "is no image in one of the formats PNG, JPEG, BMP, GIF, WEBP, TIFF"
    code, out, told = call("train", "cnn", "--data", "images:photos", "--epochs", "1")
    assert (code, out) == (3, "")
    start = f"error: 3 of 23 image files cannot be used: {root}/ants/cut.jpg is damaged: image file is truncated ("
    assert told.startswith(start) and told.endswith(
        f"; {root}/bees/text.JPG {none}; {root}/bees/zero.png {none}: mend or remove them, or leave them out with "
        "--set data.invalid=skip\n"
    )
    assert not (tmp_path / "runs").exists()
    words = ("train", "cnn", "--data", "images:photos", "--epochs", "1", "--set", "data.invalid=skip")
    code, _, told = call(*words)
    assert code == 0 and "(15 train, 2 val, 4 test samples)" not in told
    assert f"skipped: 3 of 23 image files cannot be used: {root}/ants/cut.jpg is damaged" in told
    assert "skipped: 3 of 23 image files" in (tmp_path / "runs/1/log.txt").read_text()
    assert call("eval", "1")[0] == 0
    assert "3 of 23 image files cannot be used" in call("train", "cnn", "--data", "images:photos")[2]
    source = read(root, invalid="skip")
    assert source.y is not None and len(source.x) == 20 and source.y.tolist() == [0] * 10 + [1] * 10
    with Image.open(root / "bees/0.png") as image:
        np.testing.assert_array_equal(source.x[10], np.asarray(image).transpose(2, 0, 1))


def test_at_most_ten_of_them(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", count=2)
    for number in range(12):
        (root / f"ants/x{number:02}.png").touch()
    message = refused(root)
    assert message.startswith(f"12 of 16 image files cannot be used: {root}/ants/x00.png is no image")
    assert "x09.png" in message and "x10.png" not in message and "; and 2 more: mend" in message


def test_a_class_of_which_no_file_can_be_used_is_refused_even_if_they_are_skipped(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", count=1)
    (root / "bees/0.png").write_bytes(b"")
    assert refused(root, invalid="skip") == (
        f"{root}: of class bees of train no image file can be used: mend the files, or remove the folder"
    )
    (root / "ants/0.png").write_bytes(b"")
    assert "; " in refused(root, invalid="skip") and "data.invalid" not in refused(root, invalid="skip")


def test_a_folder_of_other_things_is_given_up_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of a stranger may name images:/."""
    monkeypatch.setattr(layout, "_DOUBTFUL", 60)
    root = folder(tmp_path / "photos", count=2)
    for number in range(30):
        folder_ = root / f"ants/{number}"
        folder_.mkdir()
        for name in "abc":
            (folder_ / name).touch()
    told = refused(root)
    assert told.startswith(f"{root} holds ") and told.endswith(" files: name the folder of images"), told
    folder(root, count=20)
    assert len(read(root).x) == 40


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", count=1)
    (root / "bees").chmod(0)
    assert refused(root) == f"{root}/bees cannot be read: Permission denied"


# Runs on data that changes, or that is other data


def test_changed_images_are_told_by_eval_and_resume(call: Call, cache: Path, tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", count=10)
    assert call("train", "cnn", "--data", "images:photos", "--epochs", "1")[0] == 0
    name = f"images:{root}"

    def changed(what: str) -> tuple[int, str, str]:
        return (
            3,
            "",
            f"error: data {name} has changed since the model was trained on it{what}: restore it, or use it as it is "
            f"now with --data {name}\n",
        )

    file = root / "ants/3.png"
    before = file.read_bytes()
    photo(file, seed=4711)
    photo(root / "bees/new.png")
    assert call("eval", "1") == changed(" (1 new, 1 changed)")
    assert call("resume", "1", "--epochs", "2") == changed(" (1 new, 1 changed)")
    assert call("eval", "1", "--data", name)[0] == 0
    file.write_bytes(before)
    (root / "bees/new.png").unlink()
    assert call("eval", "1")[0] == 0
    file.rename(root / "ants/33.png")
    assert call("eval", "1") == changed(" (1 new, 1 missing)")
    for sums in cache.glob("*.sums"):
        sums.write_text("junk")
    assert call("eval", "1") == changed("")
    file.hardlink_to(root / "ants/33.png")
    (root / "ants/33.png").unlink()
    assert call("eval", "1")[0] == 0
    (root / "wasps").mkdir()
    file.rename(root / "wasps/3.png")
    assert call("eval", "1") == changed(" (1 new, 1 missing)")
    (root / "wasps/3.png").rename(file)
    root.rename(tmp_path / "moved")
    assert call("eval", "1")[0] == 3
    assert "exact: no" in call("resume", "1", "--epochs", "2", "--data", "images:moved")[2]


def test_other_images_are_read_as_those_of_the_run(call: Call, tmp_path: Path) -> None:
    folder(tmp_path / "photos")
    folder(tmp_path / "other", size=(20, 30))
    folder(tmp_path / "cats", classes="cats dogs")
    photo(tmp_path / "photos/ants/x.png", size=(9, 9))
    assert call("train", "cnn", "--data", "images:photos", "--epochs", "1")[0] == 0  # of different sizes: 64
    assert call("eval", "1", "--data", "images:other")[0] == 0
    name = f"images:{tmp_path}/cats"
    assert call("eval", "1", "--data", "images:cats") == (
        3,
        "",
        f"error: the classes of data {name} (cats, dogs) are not those that the model was trained on (ants, bees): "
        "name the folders of the classes alike\n",
    )


def weights(run: Run) -> dict[str, torch.Tensor]:
    return checkpoint.load(run.checkpoints, "last").weights


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(w, other[name]) for name, w in one.items())


def trained(runs: str, **settings: Any) -> Run:
    options = {"size": 8} | settings.pop("data_options", {})
    config = TrainConfig("cnn", data="images:photos", data_options=options, device="cpu", threads=1, **settings)
    fit_new(build(config), Path(runs))
    return Run(Path(runs), 1)


@pytest.mark.parametrize("storage", ["memory", "cache"])
def test_a_resumed_training_has_the_same_bits(storage: str, tmp_path: Path) -> None:
    folder(tmp_path / "photos", count=20)
    settings: dict[str, Any] = {"augment": ("flip", "shift=1"), "data_options": {"storage": storage}, "batch_size": 8}
    whole = trained("whole", epochs=3, **settings)
    first = trained("stopped", epochs=1, **settings)
    assert not same(weights(whole), weights(first))
    for _ in resume(first, epochs=3):
        pass
    assert same(weights(whole), weights(first))


def test_a_storage_changes_no_bit(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        folder(tmp_path / "photos" / split, count=10)
    settings: dict[str, Any] = {"epochs": 2, "augment": ("flip", "rotate"), "batch_size": 7}
    runs = [trained(name, **settings, data_options={"storage": name}) for name in ("memory", "cache")]
    assert same(weights(runs[0]), weights(runs[1]))
    assert runs[0].data() == runs[1].data()
    rows = [[{k: v for k, v in row.items() if "second" not in k} for row in run.metrics()] for run in runs]
    assert rows[0] == rows[1]
    sources = [read(tmp_path / "photos", storage=name) for name in ("memory", "cache")]
    assert [source.mapped for source in sources] == [False, True]
    assert torch.equal(sources[0].x, sources[1].x)


def test_an_option_that_is_wrong_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        read(folder(tmp_path / "photos", count=1), size=-1)
