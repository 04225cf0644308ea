"""Images that lie in a list, an archive or Parquet files: the same pixels as in a folder, and all that can go wrong."""

import gzip
import io
import json
import struct
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.core.errors import ConfigError
from dlcli.data.source import Source
from tests.test_image_cache import undecodable
from tests.test_image_folder import Call, cache, folder, photo, read, refused

__all__ = ["cache"]  # a fixture


def packed(root: Path, file: Path, *, top: str = "") -> Path:
    names = sorted(path for path in root.rglob("*") if path.is_file())
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for number, path in enumerate(names):
                method = (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED)[number % 2]
                archive.write(path, top + str(path.relative_to(root)), compress_type=method)
    else:
        with tarfile.open(file, "w:gz" if file.suffix == ".gz" else "w") as archive_:
            for path in names:
                archive_.add(path, top + str(path.relative_to(root)))
    return file


def same(one: Source, other: Source) -> bool:
    assert one.y is not None and other.y is not None
    return torch.equal(one.x, other.x) and torch.equal(one.y, other.y) and one.class_names == other.class_names


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("top", ["", "photos/", "a/b/"])
def test_an_archive_is_read_as_the_folder_in_it(ending: str, top: str, tmp_path: Path, cache: Path) -> None:
    root = folder(tmp_path / "photos", count=20)
    source = read(root)
    file = packed(root, tmp_path / f"p.{ending}", top=top)
    found = read(file)
    assert same(found, source) and same(read(file, storage="cache"), source)
    assert found.digest == source.digest
    assert not list(cache.glob(".tmp-*")) and len(list(cache.glob("*.pixels"))) == 1


def test_splits_and_skipped_files_of_an_archive(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for split in ("train", "val", "test"):
        folder(root / split, count=3)
    (root / "train/ants/.hidden.png").touch()
    (root / "train/ants/a.txt").touch()
    file = packed(root, tmp_path / "p.zip")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("__MACOSX/train/ants/._0.png", b"junk")
    found = read(file)
    assert found.val_x is not None and found.test_x is not None and len(found.x) == len(found.val_x) == 6
    assert found.notes[1:] == (f"skipped in {file}: 1 hidden, 1 not images",)


def test_a_training_on_an_archive(tmp_path: Path) -> None:
    file = packed(folder(tmp_path / "photos", count=10), tmp_path / "p.zip")
    call = runner()
    assert call("train", "cnn", "--data", "images:p.zip", "--epochs", "1", "--image-size", "8")[0] == 0
    assert call("eval", "1")[0] == 0
    packed(folder(tmp_path / "photos", count=11), file)
    assert call("eval", "1")[2].startswith(
        f"error: data images:{file} has changed since the model was trained on it (2 new"
    )


def runner() -> Call:
    def run(*words: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, list(words), prog_name="dlcli")
        return done.exit_code, done.stdout, done.stderr

    return run


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
def test_an_archive_that_is_none(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"p.{ending}"
    file.write_bytes(b"<html>" * 1000)
    assert refused(file).startswith(f"{file} is no whole archive: ")
    file = packed(folder(tmp_path / "photos", count=20), file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert refused(file).startswith(f"{file} is no whole archive: ")


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a/1.png", "b/1.png"):
            archive.writestr(name, b"\0" * 120_000_000)
    assert refused(bomb) == f"{bomb} is refused: it would unpack to 0.2 GB, over 100 times its size"
    packed_ = tmp_path / "bomb.tar.gz"
    with gzip.open(packed_, "wb", compresslevel=1) as file:
        info = tarfile.TarInfo("a/1.png")
        info.size = 240_000_000
        file.write(info.tobuf())
        file.write(b"\0" * 240_000_000)
    assert refused(packed_) == f"{packed_} is refused: it unpacks to over 100 times its size"


def test_a_member_that_is_larger_than_it_says(tmp_path: Path) -> None:
    file = packed(folder(tmp_path / "photos", count=2), tmp_path / "p.zip")
    content = bytearray(file.read_bytes())
    place = content.index(b"PK\1\2")  # the first member in the central directory
    name = content[place + 46 : place + 46 + struct.unpack_from("<H", content, place + 28)[0]].decode()
    struct.pack_into("<I", content, place + 24, 10)
    file.write_bytes(content)
    assert f"{file}/{name} cannot be read: the archive is damaged there" in refused(file)
    assert len(read(file, invalid="skip").x) == 3


def test_a_flipped_byte_in_a_zip_is_seen(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", count=2)
    for path in root.rglob("*.png"):
        path.rename(path.with_suffix(".bmp")) and photo(path.with_suffix(".bmp"), size=(9, 9))
    file = tmp_path / "p.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(root.rglob("*.bmp")):
            archive.write(path, str(path.relative_to(root)))
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes(content)
    assert refused(file).startswith(f"1 of 4 image files cannot be used: {file}/ants/0.bmp cannot be read: the archive")


@pytest.mark.parametrize("name", ["../a/1.png", "/etc/a/1.png", "a/../../1.png", "a\\..\\1.png"])
@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_a_name_that_leads_out_is_refused(name: str, ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"p.{ending}"
    content = photo(tmp_path / "x.png").read_bytes()
    if ending == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(name, content)
    else:
        with tarfile.open(file, "w") as archive_:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive_.addfile(info, io.BytesIO(content))
    assert refused(file) == f"{file} is refused: {name!r} in it leads out of the archive"


def test_links_twice_and_passwords(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", count=2)
    (root / "ants/link.png").symlink_to("/etc/passwd")
    file = packed(root, tmp_path / "p.tar")
    assert read(file).notes[1:] == (f"skipped in {file}: 1 links",)
    (root / "ants/link.png").unlink()
    file = packed(root, tmp_path / "p.zip")
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning):
        archive.writestr("ants/0.png", b"x")
    assert refused(file) == f"{file} is refused: it holds 'ants/0.png' twice"
    file = packed(root, tmp_path / "p.zip")
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    file.write_bytes(content)
    assert refused(file) == f"{file} is encrypted: ants/0.png cannot be read without a password; unpack it"


def test_files_storage_needs_an_order_that_is_free(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", count=2)
    file = packed(root, tmp_path / "p.tar.gz")
    with pytest.raises(ConfigError) as caught:
        read(file, storage="files")
    assert str(caught.value) == (
        f"data.storage = files needs images that can be read in any order, but {file} can be read only from its start: "
        "take storage = cache"
    )


# Lists


def listed(root: Path, *lines: str, header: str = "path,label") -> Path:
    file = root / "list.csv"
    file.write_text("\n".join([header, *lines]) + "\n")
    return file


def test_a_list_names_the_class_and_the_split_of_each_image(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for number in range(6):
        photo(root / f"{number}.png", seed=number)
    file = listed(
        root, "0.png,10,train", "./1.png,9,Train", f"{root}/2.png,9,val", "3.png,10,validation", "4.png,9,test",
        header="path,label,split",
    )  # fmt: skip
    source = read(file)
    assert source.class_names == ("9", "10")
    assert [t.tolist() for t in (source.y, source.val_y, source.test_y) if t is not None] == [[1, 0], [0, 1], [0]]
    assert source.notes[1:] == (f"{file} (split test) has no images of class 10",)
    before = source.digest
    listed(root, "0.png,9", "1.png,10")
    assert read(file).digest != before
    assert read(file).digest != read(listed(root, "0.png,10", "1.png,9")).digest  # other labels of the same files


def test_a_list_and_its_folder_do_not_push_each_other_out_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path / "photos", count=20)
    time.sleep(0.05)  # a file that has just been changed is read again
    file = listed(root, *(f"{name}/{k}.png,{name}" for name in ("ants", "bees") for k in range(20)))
    first = read(root), read(file)
    undecodable(monkeypatch)
    assert same(read(root), first[0]) and same(read(file), first[1])


def test_an_archive_may_be_a_link(tmp_path: Path) -> None:
    file = packed(folder(tmp_path / "photos", count=20), tmp_path / "p.zip")
    (tmp_path / "link.zip").symlink_to(file)
    assert same(read(tmp_path / "link.zip"), read(file))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["../x.png,a"], "{file}:2: ../x.png is outside {root}: name a file in the folder of the list"),
        (["/etc/passwd,a"], "{file}:2: /etc/passwd is outside {root}: name a file in the folder of the list"),
        (["link/x.png,a"], "{file}:2: link/x.png is outside {root}: name a file in the folder of the list"),
        ([",a"], "{file}:2: there is no path: name a file in the folder of the list"),
        (["0.png,"], "{file}:2: there is no label: write one, or remove the row"),
        (["0.png,a", "./0.png,b"], "{file}:3: 0.png is listed twice, first in {file}:2: remove one of them"),
        (["0.png,a", "1.png,a"], "{file} has images of one class only (a): add those of another"),
        (
            ["0.png,a", "1.png,b", "x.png,b"],
            "1 of 3 image files cannot be used: {root}/x.png cannot be read: No such file or directory: mend or remove "
            "them, or leave them out with --set data.invalid=skip",
        ),
    ],
)
def test_a_list_that_cannot_be_used(lines: list[str], message: str, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for number in range(2):
        photo(root / f"{number}.png")
    photo(tmp_path / "out/x.png")
    (root / "link").symlink_to(tmp_path / "out")
    file = listed(root, *lines)
    assert refused(file) == message.format(file=file, root=root)


def test_a_list_without_its_columns_or_with_a_wrong_split(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    photo(root / "0.png")
    file = listed(root, "0.png,a", header="file,label")
    assert refused(file) == f"{file} has no column 'path': its first line must be path,label or path,label,split"
    file = listed(root, "0.png,a,dev", header="path,label,split")
    assert refused(file) == f"{file}:2: split 'dev' is none of train, val and test"


# Parquet


def parquet(file: Path, labels: list[Any], *, names: list[str] | None = None, column: str = "label") -> Path:
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    folder_ = file.parent / "made"
    contents = [photo(folder_ / f"{k}.png", seed=k).read_bytes() for k in range(len(labels))]
    rows = [{"bytes": content, "path": "x.png"} for content in contents]
    table = pyarrow.table({"image": rows, column: labels})
    if names:
        about = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    file.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(table, file, row_group_size=7)
    return file


@pytest.mark.parametrize("names", [None, ["ant", "bee"]])
def test_a_parquet_file_as_hubs_ship_it(names: list[str] | None, tmp_path: Path) -> None:
    labels = [k % 2 for k in range(100)]
    file = parquet(tmp_path / "p.parquet", labels, names=names)
    source = read(file)
    assert source.class_names == tuple(names or ["0", "1"]) and source.y is not None and source.y.tolist() == labels
    root = tmp_path / "photos"
    for k in range(100):
        photo(root / str(k % 2) / f"{k:03}.png", seed=k)
    whole = read(root)
    assert torch.equal(source.x[labels.index(0) :: 2], whole.x[:50])
    assert same(source, read(file))


def test_a_folder_of_parquet_files_has_splits(tmp_path: Path) -> None:
    root = tmp_path / "hub"
    parquet(root / "train-00000-of-00002.parquet", ["a", "b"])
    parquet(root / "train-00001-of-00002.parquet", ["b", "a"])
    parquet(root / "test-00000-of-00001.parquet", ["b"])
    source = read(root)
    assert source.y is not None and source.y.tolist() == [0, 1, 1, 0]
    assert source.test_y is not None and source.test_y.tolist() == [1]


def test_parquet_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = parquet(tmp_path / "p.parquet", ["a", None, "b"])
    assert refused(file) == f"{file}:1: there is no label"
    file = parquet(tmp_path / "p.parquet", [0, 2], names=["x", "y"])
    assert refused(file) == f"{file}:1: label 2 is none of its 2 classes"
    parquet(file, ["a", "b"], column="kind")
    assert read(file).class_names == ("a", "b")
    file.write_bytes(b"PAR1 junk")
    assert refused(file).startswith(f"{file} cannot be read as Parquet: ")
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert runner()("train", "cnn", "--data", f"images:{file}") == (
        6, "", f"error: {file} is read by pyarrow: install it with pip install 'dlcli[tables]'\n"
    )  # fmt: skip


# Options


@pytest.mark.parametrize("flag", ["--image-size=8", "--channels=grey", "--storage=files", "--workers=2"])
def test_the_options_of_images_are_refused_for_other_data(flag: str) -> None:
    name = flag.partition("=")[0]
    kinds = "images:FOLDER or table:FILE" if name == "--storage" else "images:FOLDER"
    assert runner()("train", "mlp", "--data", "iris", flag) == (
        2, "", f"error: {name} is for data {kinds}, but data = iris: leave it out\n"
    )  # fmt: skip


def test_the_options_of_images_are_those_of_the_data(tmp_path: Path) -> None:
    folder(tmp_path / "photos", count=5)
    words = ("--image-size", "9", "--channels", "grey", "--storage", "cache", "--workers", "1", "--epochs", "1")
    assert runner()("train", "cnn", "--data", "images:photos", *words)[0] == 0
    stored = json.loads((tmp_path / "runs/1/config.json").read_text())["data"]
    assert {name: stored[name] for name in ("size", "channels", "storage", "workers")} == {
        "size": 9, "channels": "grey", "storage": "cache", "workers": 1,
    }  # fmt: skip
    assert runner()("train", "cnn", "--data", "images:photos", "--workers", "0") == (
        2, "", "error: data.workers = 0 is out of range: it must be in [1, 256]\n"
    )  # fmt: skip
