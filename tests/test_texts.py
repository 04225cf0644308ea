"""texts:FILE and texts:FOLDER: how texts become tokens, what is learned of them, and that every command works on them.

Tokens are compared with plain Python, models with one text at a time; messages are whole.
"""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from dlcli.checkpoints import checkpoint
from dlcli.cli.main import app
from dlcli.config.settings import TrainConfig
from dlcli.core.errors import ConfigError, DataError, DlcliError
from dlcli.core.spec import DataSpec
from dlcli.data.dataset import Dataset
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.texts.byte_pairs import byte_characters
from dlcli.data.texts.tokens import Tokens, learn
from dlcli.experiment.load import load_data
from dlcli.models.attention import Attention
from dlcli.models.ngrams import NGrams
from dlcli.models.rnn import RNN
from dlcli.runs.names import find_one

Call = Callable[..., tuple[int, str, str]]

SPAM = ("free prizes, call now", "win cash 100", "free entry: text WIN")
HAM = ("see us, you at lunch", "ok, on my way", "are you free later?")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Exit code, stdout and stderr of a command that works in tmp_path."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, stdin: str | None = None) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, list(words), prog_name="dlcli", input=stdin)
        return done.exit_code, done.stdout, done.stderr

    return run


def messages(count: int = 120) -> list[tuple[str, str]]:
    """Class and text of each: a third is spam."""
    return [
        ("spam", f"{SPAM[i % 3]} {i}") if i % 3 == 0 else ("ham", f"{HAM[i % 3]} {i}" + "!" * (i % 7))
        for i in range(count)
    ]


def written(path: Path, rows: list[tuple[str, ...]], names: str = "label,body") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names.split(","), *rows])
    return path


def foldered(root: Path, rows: list[tuple[str, str]], part: str = "") -> Path:
    for number, (label, text) in enumerate(rows):
        place = root / part / label / f"{number}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return root


def loaded(path: Path, **options: Any) -> Dataset:
    given = {} if path.is_dir() else {"target": "label", "text": "body"}
    return load_data(TrainConfig("ngrams", data=f"texts:{path}", data_options=given | options), device="cpu")


def said(error: type[DlcliError], path: Path, **options: Any) -> str:
    with pytest.raises(error) as caught:
        loaded(path, **options)
    return str(caught.value)


def tokens_of(data: Dataset) -> Tokens:
    assert data.preprocessing.tokens is not None
    return data.preprocessing.tokens


# Tokens


TEXTS = ["Hello, hello world!", "hello  wörld ☃☃", "", "hello\nworld, hello", "hey !! hey !! hey !!"]


def by_hand(about: dict[str, Any], text: str) -> list[int]:
    """What docs/own-texts.md says of the JSON of a run or an export, in plain Python."""
    place = {token: number + 2 for number, token in enumerate(about["vocabulary"])}
    if about["unit"] == "characters":
        found = [place.get(character, 1) for character in text]
    elif about["unit"] == "words":
        found = [place.get(word, 1) for word in re.findall(r"\w+|[^\w\s]", text)]
    else:
        found = []
        rank = {tuple(pair): order for order, pair in enumerate(about["merges"])}
        shown = byte_characters()
        for piece in re.findall(r" ?\w+| ?[^\w\s]+|\s", text):
            parts = [place[shown[byte]] - 2 for byte in piece.encode()]
            while pairs := [pair for pair in zip(parts, parts[1:], strict=False) if pair in rank]:
                first = min(pairs, key=rank.__getitem__)
                at = next(i for i in range(len(parts)) if tuple(parts[i : i + 2]) == first)
                joined = about["vocabulary"][first[0]] + about["vocabulary"][first[1]]
                parts[at : at + 2] = [place[joined] - 2]
            found += [part + 2 for part in parts]
    found = found[: about["length"]]
    return found + [0] * (about["length"] - len(found))


def test_byte_pairs_are_made_inside_of_pieces_only() -> None:
    """A piece is a word or signs, with one blank before them, or any other blank by itself."""
    pytest.importorskip("tokenizers")
    learned = learn(["ab,, cd  ef !?\n\ngh"] * 50, "bpe", most=1000, length=0)
    shown = {character: byte for byte, character in enumerate(byte_characters())}
    texts = [bytes(shown[c] for c in token).decode("latin-1") for token in learned.vocabulary if len(token) > 1]
    assert sorted(texts) == sorted(["ab", ",,", "cd", " cd", "ef", " ef", "!?", " !?", "gh"])


@pytest.mark.parametrize("unit", ["characters", "words", "bpe"])
@pytest.mark.parametrize("length", [0, 5])
def test_tokens_are_those_of_plain_python(unit: Any, length: int) -> None:
    if unit == "bpe":
        pytest.importorskip("tokenizers")
    learned = learn(TEXTS, unit, most=300, length=length)
    about = json.loads(json.dumps(learned.as_dict()))
    read = Tokens.from_dict(about)
    assert read == learned
    if unit == "bpe":  # the blank before signs is part of their piece
        assert "Ġ!!" in learned.vocabulary
    others = [*TEXTS, "new ☂ Ünknown  words 123", "\ud800 half a pair", " "]
    encoded = read.encode(others)
    plain = [text.encode("utf-8", "replace").decode() if unit == "bpe" else text for text in others]
    assert encoded.rows.tolist() == [by_hand(about, text) for text in plain]
    assert encoded.rows.max() < read.size and (encoded.rows[2] == 0).all()
    if length:
        assert encoded.cut == sum(0 not in by_hand(about | {"length": 6}, text) for text in plain)


def test_what_occurs_once_or_is_too_rare_is_unknown_and_counted() -> None:
    learned = learn(["aab", "aac"], "characters", most=10, length=0)
    assert learned.vocabulary == ("a",) and learned.length == 3
    assert learned.encode(["abc?"]).unknown == Counter("bc")  # ? is cut off
    assert learn(["a b a b c c c"], "words", most=2, length=0).vocabulary == ("c", "a")
    words = learn(["x y x y"], "words", most=9, length=0)
    assert words.encode(["x new y new"]).unknown == Counter(new=2)


BYTES = {"unit": "bpe", "vocabulary": byte_characters()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": "letters"}, "unit = 'letters' is not one of characters, words, bpe"),
        ({"length": 0}, "length = 0 is not a whole number of at least 1"),
        ({"vocabulary": []}, "its vocabulary is empty or too large, or two of its tokens are the same"),
        ({"vocabulary": ["a", "a"]}, "its vocabulary is empty or too large, or two of its tokens are the same"),
        ({"vocabulary": ["ab"]}, "its vocabulary holds a token that is not one character"),
        ({"unit": "bpe", "vocabulary": ["a"]}, "its vocabulary lacks bytes"),
        ({"merges": [[1]]}, "merges = [[1]] is not a list, each of it two whole numbers"),
        ({**BYTES, "merges": [[0, 256]]}, "its merges name token 256, which there is not"),
        ({**BYTES, "merges": [[33, 33]]}, "its merges make '!!'"),
    ],
)  # fmt: skip
def test_a_damaged_document_is_refused(change: dict[str, Any], message: str) -> None:
    about = {"unit": "characters", "vocabulary": ["a"], "length": 3}
    with pytest.raises(ValueError, match=re.escape(message)):
        Tokens.from_dict(about | change)
    spec = DataSpec("binary", "tokens", (3,), 1, 3, padding=True)
    document = Preprocessing(spec, tokens=Tokens("characters", ("a",), 3)).as_dict()
    assert Preprocessing.from_dict(document).as_dict() == document
    with pytest.raises(ValueError, match="tokens makes 4 of 3 tokens, but the data is tokens of at most 3"):
        Preprocessing.from_dict(document | {"tokens": about | {"length": 4}})


def test_padding_is_for_texts_with_a_class() -> None:
    values = DataSpec("binary", "tokens", (3,), 1, 3, padding=True).as_dict()
    assert DataSpec.from_dict(values).padding
    with pytest.raises(ValueError, match="padding does not go with features for binary"):
        DataSpec.from_dict(values | {"kind": "features", "vocabulary": 0})
    assert "padding" not in DataSpec("multiclass", "tokens", (3,), 3, 3).as_dict()  # as old runs have it


# Data


def test_a_table_of_texts(tmp_path: Path) -> None:
    rows = messages()
    data = loaded(written(tmp_path / "a.csv", rows))
    assert data.preprocessing.class_names == ("ham", "spam")
    assert data.spec.task == "binary" and data.spec.padding
    assert (len(data.train), len(data.split("val")), len(data.split("test"))) == (86, 10, 24)
    for name in ("train", "val", "test"):
        split = data.split(name)
        assert split.index is not None
        x, y = split.rows.take(split.index)
        assert y is not None
        for row, tokens, label in zip(split.index.tolist(), x.tolist(), y.tolist(), strict=True):
            expected = tokens_of(data).encode([rows[row][1]]).rows[0].tolist()
            assert tokens == expected[: len(tokens)] and not any(expected[len(tokens) :])
            assert label == (rows[row][0] == "spam")
        assert y.double().mean().item() == pytest.approx(1 / 3, abs=0.07)  # stratified


def test_only_the_training_texts_teach_characters_length_and_classes(tmp_path: Path) -> None:
    rows = [(*row, "train") for row in messages(30)]
    rows += [("ham", "☃☃ a text that is much longer than all the others, and has snowmen ☃☃", "val")] * 2
    rows += [("spam", "☂☂", "test")] * 2
    data = loaded(written(tmp_path / "a.csv", rows, "label,body,part"), split_column="part")
    assert {len(data.train), len(data.split("val")), len(data.split("test"))} == {30, 2}
    assert not {"☃", "☂"} & set(tokens_of(data).vocabulary)
    assert tokens_of(data).length == max(len(text) for _, text, part in rows if part == "train")
    assert "2 of 34 texts are cut off: they have more than 28 characters" in data.notes


@pytest.mark.parametrize("parts", [("",), ("train", "test"), ("Train", "valid", "TEST")])
def test_a_folder_of_texts(parts: tuple[str, ...], tmp_path: Path) -> None:
    for part in parts:
        foldered(tmp_path / "a", messages(30), part)
    base = tmp_path / "a" / parts[0]
    (base / "ham" / "more").mkdir()
    (base / "ham" / "more" / "x.TXT").write_bytes("Köln".encode("latin-1"))
    (base / "ham" / "empty.txt").write_text(" \n")
    (base / "ham" / ".hidden.txt").write_text("x")
    (base / "ham" / "photo.png").write_text("x")
    data = loaded(tmp_path / "a")
    assert data.preprocessing.class_names == ("ham", "spam")
    if len(parts) > 1:
        assert (len(data.train), len(data.split("test"))) == (31 if len(parts) == 3 else 28, 30)
    assert f"skipped in {tmp_path / 'a'}: 1 empty, 1 hidden, 1 not .txt" in data.notes
    foreign = base / "ham" / "more" / "x.TXT"
    assert f"1 files are read as latin-1, since they are not UTF-8, such as {foreign}" in data.notes


def test_classes_that_are_numbers_are_in_their_order_and_more_than_two_are_no_binary_task(tmp_path: Path) -> None:
    rows = [(str(i % 11), f"text {i % 11} {i}") for i in range(110)]
    data = loaded(written(tmp_path / "a.csv", rows))
    assert data.preprocessing.class_names == tuple(map(str, range(11)))
    assert (data.spec.task, data.spec.outputs) == ("multiclass", 11)


def test_copies_missing_cells_and_another_encoding_are_told(tmp_path: Path) -> None:
    rows = [*messages(40), ("ham", "the same"), ("ham", "the same"), ("", "no label"), ("ham", ""), ("ham", "Köln")]
    path = written(tmp_path / "a.csv", rows)
    path.write_bytes(path.read_text().encode("latin-1"))
    told = " | ".join(loaded(path).notes)
    assert "a.csv is read as latin-1, since line 46 is not UTF-8" in told
    assert "2 of 45 rows of a.csv are left out: 1 have no body, 1 have no label" in told
    assert "1 of 43 texts are copies of others" in told
    rows = [("ham" if i else "spam", f"text {i}") for i in range(50)]
    assert loaded(written(tmp_path / "b.csv", rows)).notes[-1] == "class spam has 2.00% of the texts"
    parts = [("ham", "a b", "train"), ("spam", "c d", "train"), ("ham", "a b", "test"), ("ham", "a b", "train")]
    written(path, parts * 3, "label,body,part")
    told = " | ".join(loaded(path, split_column="part").notes)
    assert "10 of 12 texts are copies of others; 4 validation and test texts have a copy in the training texts" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "lable"}, "data.target = lable is no column of {path}: did you mean label?"),
        ({"text": "boddy"}, "data.text = boddy is no column of {path}: did you mean body?"),
        ({"split_column": "p"}, "data.split_column = p is no column of {path}: known are label, body"),
        ({"target": None}, "data.target must be given, the column with the class: label, body in {path}"),
        ({"text": None}, "data.text must be given, the column with the text: label, body in {path}"),
        ({"text": "label"}, "data.target and data.text both name label: text and class are two columns"),
        ({"length": -1}, "data.length = -1 is out of range: it must be in [0, 65536]"),
        ({"vocabulary": 10**7}, "data.vocabulary = 10000000 is out of range: it must be in [0, 30000]"),
        ({"tokens": "letters"}, "data.tokens = 'letters' is not one of characters, words, bpe"),
        ({"target": "body", "text": "label"}, "data.target = body has 12 different classes for 12 texts: too many"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", messages(12))
    assert said(ConfigError, path, **options) == message.format(path=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "{path} is empty"),
        (b"label,body\n", "{path} has a header but no rows"),
        (b"label,body\nham,\n,x\n", "{path} has no row with both body and label: name other columns"),
        (b"label,body\nham,a\nham,b\n", "{path} has texts of one class only (ham): there is nothing to predict"),
        (b"label,body\nham,\x00\n", "{path}:2 is not text: it holds a NUL character"),
        (
            b"label,body\nham," + b"a" * 200_000 + b"\n",
            "{path} has texts of one class only (ham): there is nothing to predict",
        ),
    ],
)
def test_files_that_cannot_be_used(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    assert said(DataError, tmp_path / "a.csv") == message.format(path=tmp_path / "a.csv")


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    root = tmp_path / "a"
    root.mkdir()
    assert said(DataError, root) == f"{root} holds no .txt files in its sub-folders: put those of each class into one"
    (root / "x.txt").write_text("x")
    (root / "x.png").write_text("x")
    told = "(1 not .txt, 1 outside the folders of classes)"
    assert said(DataError, root) == (
        f"{root} holds no .txt files in its sub-folders {told}: put those of each class into one"
    )
    foldered(root, [("ham", " ")])
    assert said(DataError, root) == f"{root} holds only empty .txt files"
    foldered(root, [("ham", "x"), ("ham", "y")])
    assert said(DataError, root) == f"{root} has texts of one class only (ham): there is nothing to predict"
    (root / "ham" / "b.txt").write_bytes(b"ok\n\x89PNG\r\n\x1a\n\x00")
    assert said(DataError, root) == f"{root}/ham/b.txt:3 is not text: it holds the control character 0x1a"
    assert said(ConfigError, root, target="x") == f"data.target = x is for a table of texts, but {root} is a folder"
    assert said(DataError, tmp_path / "b.csv") == f"{tmp_path / 'b.csv'} does not exist"


# Models


SPECS = [
    DataSpec(task, "tokens", (12,), outputs, 9, padding=True) for task, outputs in (("multiclass", 3), ("binary", 1))
]
MODELS: list[Callable[[DataSpec], nn.Module]] = [
    lambda spec: Attention(spec, width=8, heads=2, layers=2),
    lambda spec: Attention(spec, width=8, heads=2, layers=2, causal=True, positions="sinusoidal"),
    lambda spec: Attention(spec, width=8, mixing="mean", layers=2),
    lambda spec: Attention(spec, width=8, mixing="mean", layers=2, causal=True, positions="none"),
    lambda spec: RNN(spec, embedding=4, hidden=6, layers=2),
    lambda spec: NGrams(spec, shortest=2, longest=4, buckets=50, width=3),
    lambda spec: NGrams(spec, buckets=1000),
]


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("spec", SPECS)
def test_a_batch_gives_the_answers_of_its_texts_alone(make: Callable[[DataSpec], nn.Module], spec: DataSpec) -> None:
    torch.manual_seed(0)
    model = make(spec).double().eval()
    texts = [torch.randint(1, 9, (length,)) for length in (1, 2, 5, 12, 7)]
    batch = nn.utils.rnn.pad_sequence([*texts, torch.zeros(12, dtype=torch.int64)], batch_first=True)
    answers = model(batch)
    alone = torch.cat([model(text[None]) for text in [*texts, torch.zeros(1, dtype=torch.int64)]])
    torch.testing.assert_close(answers, alone, rtol=1e-12, atol=1e-12)
    assert bool(torch.isfinite(answers).all())
    changed = model(torch.where(batch == 0, 0, batch % 8 + 1))
    assert not torch.equal(changed[:5], answers[:5])


def test_ngrams_are_those_that_the_docs_describe() -> None:
    model = NGrams(SPECS[0], shortest=2, longest=3, buckets=101, width=4).eval()
    text = [5, 3, 8, 2]
    buckets = []
    for size in (2, 3):
        for start in range(len(text) - size + 1):
            number = 0
            for token in text[start : start + size]:
                number = (number * 1_000_003 + token) % (2**31 - 1)
            buckets.append(number % 101)
    vector = model.embedding.weight[buckets].sum(0) / len(buckets) ** 0.5
    expected = model.output(vector)
    torch.testing.assert_close(model(torch.tensor([text + [0] * 8]))[0], expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NGrams(SPECS[0], shortest=3, longest=2), "model.longest = 2 is less than model.shortest = 3"),
        (lambda: NGrams(SPECS[0], buckets=2**27), "model.buckets = 134217728 is more than 67108864"),
        (lambda: NGrams(SPECS[0], dropout=1.0), "model.dropout = 1.0 is out of range: it must be in [0, 1)"),
        (
            lambda: NGrams(DataSpec("next-token", "tokens", (4,), 6, 6)),
            "model ngrams is for classes of texts, but the data is tokens of 4 for next-token: choose "
            "--data texts:FILE, or another model",
        ),
    ],
)
def test_options_of_ngrams(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == message


# Commands


TRAIN = ("--data", "texts:a.csv", "--target", "label", "--text", "body", "--epochs", "4", "--lr", "0.05", "--quiet")


def test_every_command_works_on_texts(tmp_path: Path, call: Call) -> None:
    written(tmp_path / "a.csv", messages())
    code, out, err = call(
        "train",
        "ngrams",
        *TRAIN,
        "--lr",
        "1",
        "--set",
        "model.buckets=1000",
        "--eval",
        "test",
        "--require",
        "accuracy>0.9",
    )
    assert code == 0, err
    config = json.loads((tmp_path / "runs/1/config.json").read_text())
    assert config["data"]["length"] == 29 and config["data"]["vocabulary"] == 10_000
    texts = ["win a free prize", "see you ☃☃☂"]
    code, out, err = call("predict", "1", *texts, "--csv")
    found = list(csv.DictReader(out.splitlines()))
    assert [(row["input"], row["class"]) for row in found] == list(zip(texts, ("spam", "ham"), strict=True))
    told = "unknown characters, which the training texts had once or never: 3, such as '☃' (2), '☂' (1)"
    assert err == f"{told}\n"

    rows = [(str(i), text, label) for i, (label, text) in enumerate(zip(("spam", "ham"), texts, strict=True))]
    written(tmp_path / "new.csv", [*rows, ("2", "", "")], "id,body,label")
    code, out, err = call("predict", "1", "new.csv", "--keep", "id,label", "--csv", "--probabilities")
    table = list(csv.DictReader(out.splitlines()))
    assert [row["class"] for row in table[:2]] == ["spam", "ham"] and [row["id"] for row in table] == ["0", "1", "2"]
    assert float(table[0]["probability/spam"]) == pytest.approx(float(found[0]["probability"]), abs=1e-6)
    assert "1 of 3 rows of new.csv have no body\n" in err

    foldered(tmp_path / "new", [("x", texts[0]), ("y", texts[1])])
    code, out, err = call("predict", "1", "new", "--csv")
    assert [row["class"] for row in csv.DictReader(out.splitlines())] == ["spam", "ham"]
    code, out, err = call("predict", "1", "-", "--csv", stdin=f"{texts[0]}\n\n{texts[1]}\n")
    lines = list(csv.DictReader(out.splitlines()))
    assert [row["class"] for row in lines] == ["spam", "ham"] and lines[1]["input"].endswith(":3")

    assert call("predict", "1", "nothing.csv")[0::2] == (3, "error: nothing.csv does not exist\n")
    code, _, err = call("predict", "1", "text", "--keep", "id")
    assert (code, err) == (2, "error: --keep id is for columns of .csv files, and text is none\n")
    written(tmp_path / "bad.csv", [("a", "b")], "id,boddy")
    assert call("predict", "1", "bad.csv")[0::2] == (
        3, "error: bad.csv has no column 'body' with the text: did you mean boddy?\n",
    )  # fmt: skip

    written(tmp_path / "b.csv", messages(30)[::-1])
    code, out, err = call("eval", "1", "--data", "texts:b.csv", "--require", "accuracy>0.9")
    assert code == 0, err
    written(tmp_path / "b.csv", [*messages(30), ("eggs", "x")])
    code, _, err = call("eval", "1", "--data", "texts:b.csv")
    assert code == 3 and "b.csv:32 is of class 'eggs', which no training text has: known are ham, spam" in err
    written(tmp_path / "a.csv", messages()[:-1])
    assert call("eval", "1")[0] == 3  # the data has changed


def test_resume_gives_the_same_bits(tmp_path: Path, call: Call) -> None:
    written(tmp_path / "a.csv", messages())
    how = ("ngrams", *TRAIN, "--set", "model.buckets=500", "--set", "model.dropout=0.3", "--schedule", "constant")
    assert call("train", *how)[0] == 0
    assert call("train", *how, "--epochs", "2")[0] == 0
    assert call("resume", "2", "--epochs", "4", "--quiet")[0] == 0
    first, second = (checkpoint.load(find_one(str(n), "runs").checkpoints, "last").weights for n in (1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("model", ["attention", "rnn", "ngrams"])
def test_export_says_how_a_text_becomes_tokens(model: str, tmp_path: Path, call: Call) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    written(tmp_path / "a.csv", messages(60))
    small = {"attention": "width=8", "rnn": "hidden=8", "ngrams": "buckets=500"}[model]
    assert call("train", model, *TRAIN, "--set", f"model.{small}")[0] == 0
    code, _, err = call("export", "1", "--format", "onnx")
    assert code == 0, err
    record = json.loads((tmp_path / "runs/1/export/onnx.json").read_text())
    texts = ["win a free prize ☃", "see you", "x" * 100, "a"]
    tokens = np.array([by_hand(record["preprocessing"]["tokens"], text) for text in texts])
    session = onnxruntime.InferenceSession(tmp_path / "runs/1/export/model.onnx")
    (logits,) = session.run(None, {"tokens": tokens})
    code, out, _ = call("predict", "1", *texts, "--csv", "--probabilities")
    expected = [float(row["probability/spam"]) for row in csv.DictReader(out.splitlines())]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits[:, 0].astype(float))), expected, atol=1e-5)


@pytest.mark.parametrize("named", [True, False])
def test_inspect_says_what_would_be_made_of_texts(named: bool, tmp_path: Path, call: Call) -> None:
    path = written(tmp_path / "a.csv", messages()) if named else foldered(tmp_path / "a", messages())
    columns = ("--target", "label", "--text", "body") if named else ()
    code, out, err = call("datasets", "inspect", f"texts:{path.name}", *columns, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["classes"]["spam"] == {"train": 29, "val": 3, "test": 8}
    assert found["notes"] == ["texts as at most 29 characters, 34 different ones"]


def test_predict_tells_latin_1_and_refuses_an_empty_input(tmp_path: Path, call: Call) -> None:
    written(tmp_path / "a.csv", messages())
    code, _, err = call("train", "ngrams", *TRAIN, "--set", "model.buckets=100")
    assert code == 0, err
    (tmp_path / "l.txt").write_bytes(b"caf\xe9 free")
    code, _, err = call("predict", "1", "l.txt")
    assert code == 0 and err.splitlines()[0] == "l.txt is read as latin-1, since it is not UTF-8"
    code, _, err = call("predict", "1", "free prize", "")
    assert (code, err) == (2, "error: an input is empty: give a text, a file or a folder\n")


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    for label, text in (("ham", "see you"), ("spam", "win cash")):
        for number in range(10):
            folder = tmp_path / "mails" / label
            folder.mkdir(parents=True, exist_ok=True)
            (folder / os.fsdecode(b"\xff%d.txt" % number)).write_text(f"{text} {number}")
    config = TrainConfig("ngrams", data=f"texts:{tmp_path / 'mails'}", device="cpu")
    assert len(load_data(config, device="cpu").train) == 14
