"""Tables in the user's cache: the same bits as in memory, whatever their format and whatever happens to the cache."""

import errno
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from dlcli import TrainConfig, train
from dlcli.cli.main import app
from dlcli.core.errors import DataError, DlcliError, ResourceError
from dlcli.data.dataset import Dataset
from dlcli.data.readers import json_lines, parquet, separated
from dlcli.data.readers.cells import Cells, Numbers
from dlcli.data.readers.separated import Format
from dlcli.data.rows import Normalised
from dlcli.data.tables import encoding, features, spooled, stored
from dlcli.data.tables import table as module
from dlcli.runs.run import Run
from dlcli.training.train import resume
from tests.test_resume import everything
from tests.test_tables import loaded, people, rows_of, written


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "dlcli" / "tables"


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for where, name, value in (
        (separated, "_CHUNK", 70), (json_lines, "_CHUNK", 70), (parquet, "_ROWS", 70), (encoding, "_AT_ONCE", 64),
    ):  # fmt: skip
        monkeypatch.setattr(where, name, value)


def frame() -> pd.DataFrame:
    """Several pieces. A column of numbers has a text below the first ones, another one is missing there."""
    found = people(400)
    amounts = found["income"].astype(object).copy()
    amounts[150] = "unknown"
    late = pd.Series(np.arange(400) * 1.25)
    late[:160] = np.nan
    return found.assign(amount=amounts, late=late, few=np.arange(400) % 7, zip=[f"{i % 30:05}" for i in range(400)])


def json_text(table: pd.DataFrame) -> str:
    """Without the values that are missing, so that some names come late."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return "".join(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n" for row in rows)


def files(folder: Path) -> dict[str, Path]:
    table = frame()
    text = table.to_csv(index=False)
    found = {
        "csv": text.encode(), "gz": gzip.compress(text.encode()),
        "latin-1": text.replace("text", "täxt").encode("latin-1"),
        "utf-16": text.encode("utf-16"), "quotes": text.replace("text 3 of", 'a "b" of').encode(),
        "semicolons": table.to_csv(index=False, sep=";", decimal=",").encode(), "jsonl": json_text(table).encode(),
    }  # fmt: skip
    paths = {}
    for name, content in found.items():
        paths[name] = folder / f"{name}.{ {'gz': 'csv.gz', 'jsonl': 'jsonl'}.get(name, 'csv') }"
        paths[name].write_bytes(content)
    table.assign(amount=table["income"]).to_parquet(paths.setdefault("parquet", folder / "a.parquet"), index=False)
    return paths


def same(one: Dataset, other: Dataset) -> None:
    for name in ("train", "val", "test"):
        (x, y), (other_x, other_y) = rows_of(one, name), rows_of(other, name)
        assert torch.equal(x, other_x) and torch.equal(y, other_y)
    assert one.preprocessing == other.preprocessing
    assert one.fingerprint == other.fingerprint
    assert [note for note in one.notes if "latin-1" not in note] == [n for n in other.notes if "latin-1" not in n]


def is_mapped(data: Dataset) -> bool:
    assert isinstance(data.train.rows, Normalised)
    return data.train.rows.bytes == 8 * len(data.train.rows)  # of the targets alone


_FORMATS = ["csv", "gz", "latin-1", "utf-16", "quotes", "semicolons", "jsonl", "parquet"]


@pytest.mark.parametrize("options", [{}, {"target": "income", "scale": "quantile", "categories": ("zip",)}], ids=str)
@pytest.mark.parametrize("format", _FORMATS)
def test_the_cache_holds_the_same_bits(
    format: str, options: dict[str, Any], small_pieces: None, tmp_path: Path
) -> None:
    path = files(tmp_path)[format]
    options = {"invalid": "missing", "drop": ("id",), **options}
    in_memory = loaded(path, **options)
    for _ in range(2):  # made, and found
        cached = loaded(path, storage="cache", **options)
        same(in_memory, cached)
        assert is_mapped(cached) or options.get("target") == "income"
    assert not is_mapped(in_memory)


@pytest.mark.parametrize("arrow", [True, False])
def test_pyarrow_reads_the_same_into_the_cache_as_we_do(
    arrow: bool, small_pieces: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored.arrow, "is_there", lambda: arrow)
    path = files(tmp_path)["csv"]
    same(loaded(path, invalid="missing"), loaded(path, storage="cache", invalid="missing"))


def test_splits_and_files_of_all_kinds(small_pieces: None, tmp_path: Path) -> None:
    table = frame().drop(columns="amount")
    table.loc[5:9, "plan"] = None  # rows without a target
    path, test = written(tmp_path, table), written(tmp_path, people(90), "test.csv")
    table.assign(part=np.resize(["train", "train", "val", "test"], 400)).to_csv(tmp_path / "b.csv", index=False)
    of_column = tmp_path / "b.csv"
    for where, options in (
        (path, {"split_time": "since"}), (path, {"split_group": "city"}), (of_column, {"split_column": "part"}),
        (path, {"target": "city", "task": "multiclass"}), (path, {"val": str(test), "drop": ("late", "few", "zip")}),
    ):  # fmt: skip
        same(loaded(where, **options), loaded(where, storage="cache", **options))


def test_a_wrong_cell_is_told_as_it_is_in_memory(small_pieces: None, tmp_path: Path) -> None:
    path = files(tmp_path)["csv"]
    told = []
    for storage in ("memory", "cache"):
        with pytest.raises(DataError) as caught:
            loaded(path, numbers=("amount",), storage=storage)
        told.append(str(caught.value))
    assert told[0] == told[1] and f"{path}:152: amount is 'unknown', which is no number" in told[0]


def trained(tmp_path: Path, runs: str, storage: str, **changes: Any) -> Run:
    options = {"target": "plan", "storage": storage}
    settings = {"epochs": 3, "device": "cpu", "batch_size": 32, "patience": 0} | changes
    list(train(TrainConfig("mlp", data="table:a.csv", data_options=options, **settings), runs_dir=tmp_path / runs))
    return Run(tmp_path / runs, 1)


def test_a_training_gives_the_same_bits_and_resumes_exactly(tmp_path: Path) -> None:
    written(tmp_path, people(300))
    expected = everything(trained(tmp_path, "memory", "memory"))
    for storage, other in (("cache", "memory"), ("memory", "cache"), ("cache", "cache")):
        run = trained(tmp_path, f"{storage}-{other}", storage, epochs=1)
        assert list(resume(run, epochs=3, data_options={"target": "plan", "storage": other}))
        tensors, values, rows = everything(run)
        assert tensors.keys() == expected[0].keys() and rows == expected[2]
        assert all(torch.equal(tensors[name], expected[0][name]) for name in tensors)
    tensors, _, rows = everything(trained(tmp_path, "cache", "cache"))
    assert rows == expected[2] and all(torch.equal(tensors[name], expected[0][name]) for name in tensors)


def test_auto_takes_the_cache_for_more_numbers_than_the_memory_should_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    paths = files(tmp_path)
    for name in ("csv", "gz", "parquet"):
        cells = 400 * len(frame().columns)
        assert 0.4 * cells < stored.cells_in(paths[name]) < 2.5 * cells
        assert not is_mapped(loaded(paths[name], invalid="missing")) and not cache.exists()
    monkeypatch.setattr(module, "MOST_IN_MEMORY", 30_000)  # the table has fewer cells, but more features
    data = loaded(paths["parquet"], categories=("zip",))
    assert is_mapped(data) and data.resolved == {"storage": "cache"} and not list(cache.glob("*.columns"))
    monkeypatch.setattr(module, "MOST_IN_MEMORY", 1_000)
    assert is_mapped(loaded(paths["parquet"])) and len(list(cache.glob("*.columns"))) == 1
    assert not is_mapped(loaded(paths["parquet"], storage="memory"))


def never(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("made again")


def test_nothing_is_read_or_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, people())
    time.sleep(0.05)  # a file that has just been changed is read again
    first = loaded(path, storage="cache")
    with monkeypatch.context() as patched:
        patched.setattr(stored, "_spooled", never)
        other = loaded(path, storage="cache", settings={"seed": 1})  # other training rows, so other features
        patched.setattr(module.Encoding, "pieces", never)
        same(first, loaded(path, storage="cache"))
        same(other, loaded(path, storage="cache", settings={"seed": 1}))
    assert first.preprocessing != other.preprocessing
    written(tmp_path, people().replace("gold", "silver"))
    assert loaded(path, storage="cache").preprocessing.class_names == ("basic", "silver")


def test_a_file_read_in_another_way_is_another_entry(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("code,size\n" + "".join(f"{n}.50,{n}\n" for n in range(3000)))
    time.sleep(0.05)
    plain = stored.stored_table(path, Format())
    texts = stored.stored_table(path, Format(), texts=("code",))
    without = stored.stored_table(path, Format(header="none"))
    assert list(plain.columns) == list(texts.columns) == ["code", "size"] and len(plain) == len(texts) == 3000
    assert texts.columns["code"].text(7) == "7.50"
    assert type(plain.columns["code"]) is Numbers and type(texts.columns["code"]) is Cells
    assert len(without) == 3001 and without.columns[list(without.columns)[1]].text(0) == "size"
    assert len(stored.stored_table(path, Format())) == 3000


def test_other_rows_of_a_file_have_features_of_their_own(tmp_path: Path) -> None:
    path = written(tmp_path, people())
    data = loaded(path, storage="cache")
    encoding_of = data.preprocessing.encoding
    assert encoding_of is not None
    table = stored.stored_table(path, Format())
    for rows in (np.arange(20), np.arange(20, 40)):
        part = table.rows(rows)
        np.testing.assert_array_equal(features.features(part, encoding_of).numpy(), encoding_of.encode(part)[0])


def test_a_file_that_was_just_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could change again, to the same size, without another time."""
    path = written(tmp_path, people())
    when = time.time_ns()
    os.utime(path, ns=(when, when))
    stored.stored_table(path, Format())
    with monkeypatch.context() as patched, pytest.raises(AssertionError, match="made again"):
        patched.setattr(stored, "_spooled", never)
        stored.stored_table(path, Format())


_DAMAGE = ("cut", "longer", "empty json", "other json", "no json", "no file")


@pytest.mark.parametrize("kind", ["columns", "rows"])
@pytest.mark.parametrize("damage", _DAMAGE)
def test_damage_leads_to_making_it_again(damage: str, kind: str, tmp_path: Path, cache: Path) -> None:
    path = written(tmp_path, people())
    time.sleep(0.05)
    first = loaded(path)
    loaded(path, storage="cache")
    (kept,) = cache.glob(f"*.{kind}")
    about = kept.with_suffix(".json")
    if damage in ("cut", "longer"):
        os.truncate(kept, kept.stat().st_size + (1 if damage == "longer" else -1))
    elif damage in ("no json", "no file"):
        (about if damage == "no json" else kept).unlink()
    else:
        about.write_text("" if damage == "empty json" else '{"size": "3"}')
    same(first, loaded(path, storage="cache"))
    for known in cache.glob("*.files"):
        known.write_text("[]")
    same(first, loaded(path, storage="cache"))
    assert {path.suffix for path in cache.iterdir()} == {".columns", ".rows", ".json", ".files", ".lock"}


def child(*words: str) -> "subprocess.Popen[str]":
    line = [sys.executable, "-m", "dlcli", "train", "mlp", "--data", "table:a.csv", "--target", "plan"]
    line += ["--storage", "cache", "--epochs", "1", "--device", "cpu", *words]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_that_need_it_at_once_both_get_it(tmp_path: Path, cache: Path) -> None:
    written(tmp_path, people(20_000))
    both = [child("--runs-dir", name) for name in ("one", "two")]
    told = [each.communicate(timeout=300)[1] for each in both]
    assert [each.returncode for each in both] == [0, 0], told
    found = [(tmp_path / name / "1/data.json").read_text() for name in ("one", "two")]
    assert found[0] == found[1]
    assert {path.suffix for path in cache.iterdir()} == {".columns", ".rows", ".json", ".files", ".lock"}
    assert len(list(cache.glob("*.columns"))) == len(list(cache.glob("*.rows"))) == 1


def test_a_process_that_is_killed_while_it_reads_leaves_nothing_wrong(tmp_path: Path, cache: Path) -> None:
    path = written(tmp_path, people(30_000))
    killed = child()
    deadline = time.monotonic() + 120
    while not list(cache.glob(".tmp-*")) and time.monotonic() < deadline:
        time.sleep(0.001)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert list(cache.glob(".tmp-*")) and not list(cache.glob("*.json"))
    same(loaded(path, storage="memory"), loaded(path, storage="cache"))
    assert not list(cache.glob(".tmp-*"))


def refused(error: type[DlcliError], work: Callable[[], Any]) -> str:
    with pytest.raises(error) as caught:
        work()
    return str(caught.value)


@pytest.mark.parametrize("call", ["disk_usage", "fsync", "write"])
def test_a_full_disk_is_a_sentence(call: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, people())
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fails(*_: Any) -> NoReturn:
        raise full

    with monkeypatch.context() as patched:
        if call == "disk_usage":
            usage = shutil._ntuple_diskusage(9, 9, 0)  # type: ignore[attr-defined]
            patched.setattr(shutil, "disk_usage", lambda _: usage)
        elif call == "fsync":
            patched.setattr(os, "fsync", fails)
        else:
            patched.setattr(spooled, "_stored", fails)
        told = refused(ResourceError, lambda: loaded(path, storage="cache"))
    assert told.startswith(f"cannot write {cache}: No space left on device")
    assert told.endswith("; name another folder for caches in XDG_CACHE_HOME")
    assert not list(cache.glob(".tmp-*"))
    same(loaded(path), loaded(path, storage="cache"))


def test_a_cache_that_cannot_be_made_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert refused(ResourceError, lambda: loaded(written(tmp_path, people()), storage="cache")) == (
        f"cannot write {tmp_path}/file/dlcli/tables: Not a directory; name another folder for caches in XDG_CACHE_HOME"
    )


def test_a_file_that_is_no_table_is_told_as_it_is_in_memory(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "header.csv").write_text("a,plan\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "uneven.csv").write_text("a,plan\n1,2\n1,2,3\n")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(people().to_csv().encode())[:-20])
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    for name in ("header.csv", "empty.csv", "uneven.csv", "a.parquet", "none.csv", "a.xlsx", "."):
        told = [
            refused(DataError, partial(loaded, tmp_path / name, storage=storage)) for storage in ("memory", "cache")
        ]
        assert told[0] == told[1]
    assert "cut.csv.gz cannot be read: " in refused(DataError, lambda: loaded(tmp_path / "cut.csv.gz", storage="cache"))
    assert not list(cache.glob(".tmp-*"))


def test_texts_that_would_fill_the_memory_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooled, "MOST_TEXTS", 150)
    path = written(tmp_path, people().drop(columns=["id", "since"]))
    assert refused(DataError, lambda: loaded(path, storage="cache")) == (
        f"{path}: remark has more than 150 different texts: leave the column out of the file"
    )


def test_the_command_line(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, people())
    time.sleep(0.05)

    def call(*words: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, list(words), prog_name="dlcli")
        return done.exit_code, done.stdout, done.stderr

    code, _, told = call("train", "mlp", "--data", "table:a.csv", "--target=plan", "--storage=cache", "--epochs=1")
    assert code == 0, told
    assert json.loads((tmp_path / "runs/1/config.json").read_text())["data"]["storage"] == "cache"
    rows = json.loads(call("cache", "--json")[1])
    assert sorted((row["folder"], row["images"], row["size"]) for row in rows) == [
        (str(path), 200, str(size)) for size in (loaded(path).spec.input_shape[0], 8)
    ]
    time.sleep(0.05)
    with monkeypatch.context() as patched:
        patched.setattr(stored, "_spooled", never)
        assert call("eval", "1")[0] == 0
        assert call("eval", "1", "--split", "val")[0] == 0
    assert sum(row["bytes"] for row in rows) == sum(
        each.stat().st_size for each in cache.iterdir() if each.suffix not in (".lock", ".files")
    )
    assert "freed" in call("cache", "clear")[2] and {each.suffix for each in cache.iterdir()} == {".lock"}
    code, _, told = call("train", "mlp", "--data", "table:a.csv", "--target=plan", "--storage=files")
    assert code == 2 and "files" in told and len(list((tmp_path / "runs").glob("[0-9]*"))) == 1


# 10,000 as it was asked for; a smaller one has a smaller limit, but for torch and pyarrow.
_MEGABYTES = int(os.environ.get("DLCLI_LARGE_TABLE", "10000"))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_a_table_of_10_gb_needs_less_than_4_gb(format: str, tmp_path: Path) -> None:
    """Numbers that are repeated, so that a Parquet file is small; its size is that of the numbers, 8 bytes each. A CSV
    file has half as many bytes. What is held is memory of its own; pages of the cached files are given back when others
    need memory."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {f"n{place}": rng.integers(0, 30_000, 100_000) / 8 for place in range(58)}
    columns |= {"city": rng.choice(["Bern", "Paris", "Oslo"], 100_000), "y": rng.integers(0, 2, 100_000).astype(bool)}
    table, size = pyarrow.table(columns), 0
    path = tmp_path / f"a.{format}"
    with open(path, "wb") as file:
        if format == "parquet":
            with pyarrow.parquet.ParquetWriter(file, table.schema, compression="zstd") as writer:
                while size < _MEGABYTES * 1_000_000:
                    writer.write_table(table)
                    size += 8 * table.num_rows * table.num_columns
        else:
            while size < _MEGABYTES * 500_000:
                pyarrow.csv.write_csv(table, file, pyarrow.csv.WriteOptions(include_header=not size))
                size = file.tell()
    line = [sys.executable, "-m", "dlcli", "train", "logistic", "--data", f"table:{path}", "--target", "y"]
    line += ["--steps", "50", "--batch-size", "512", "--device", "cpu", "--test-fraction", "0.01", "--val-fraction"]
    held = resident = 0.0
    with (
        open(tmp_path / "told", "w+") as told,
        subprocess.Popen([*line, "0.01"], stderr=told, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process,
    ):
        while process.poll() is None:
            status = dict(row.split(":", 1) for row in Path(f"/proc/{process.pid}/status").read_text().splitlines())
            if "RssAnon" in status:  # not once it has ended
                held = max(held, int(status["RssAnon"].split()[0]) / 2**10)
                resident = max(resident, int(status["VmHWM"].split()[0]) / 2**10)
            time.sleep(0.05)
    print(f"{format} {size / 1e9:.1f} GB: held {held:.0f} MiB, with pages of files {resident:.0f} MiB")
    assert process.returncode == 0, (tmp_path / "told").read_text()
    assert "kept in" in (tmp_path / "told").read_text()
    assert held < 900 + 0.15 * _MEGABYTES
