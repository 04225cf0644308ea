"""Language models of your own text: documents, what a token is, bits per character, generation."""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.core.errors import ConfigError, DataError
from dlcli.data.dataset import Dataset
from dlcli.data.prepare import prepare
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.text import text_file
from dlcli.data.texts.byte_pairs import byte_characters
from dlcli.data.texts.characters import Characters, learn_alphabet
from dlcli.data.texts.pieces import Pieces, learn_pieces
from dlcli.evaluation.generate import generate
from dlcli.evaluation.measure import evaluate
from dlcli.experiment.restore import preprocessing_of, restore
from dlcli.runs.run import Run
from tests.conftest import Dlcli

UNITS = ("characters", "words", "bpe")
LINES = "".join(f"The old fox saw {n} dogs and ran away; naïve, isn't it?\n" for n in range(120))
ODD = "First,  ünknown wörds\n\n\tof ☃🎈 flibbertigibbet 123.   \tx\r\u2028end "

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Exit code, stdout and stderr of a command in tmp_path."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, list(words))
        return done.exit_code, done.stdout, done.stderr

    return run


def prepared(path: Path | str, *, val_fraction: float | None = 0.1, seed: int = 0, **options: Any) -> Dataset:
    found = text_file(Path(), path=str(path), **({"length": 16} | options))
    own = None if found.has_val else val_fraction
    return prepare(found, val_fraction=own, test_fraction=None, normalize=True, seed=seed)


def spelled(about: Preprocessing, tokens: list[int]) -> str:
    assert about.spelling is not None
    reader = about.spelling.reader()
    return "".join(map(reader.read, tokens)) + reader.rest()


def text_of(data: Dataset, name: str) -> str:
    """What the rows of a split say, each without its first token but the first row."""
    split = data.split(name)
    rows, _ = split.rows.take(slice(None) if split.index is None else split.index)
    return spelled(data.preprocessing, [int(rows[0, 0]), *rows[:, 1:].flatten().tolist()])


# Tokens


def learned(unit: Any, text: str = LINES, *, most: int = 400, separator: bool = False) -> Characters | Pieces:
    if unit == "characters":
        return learn_alphabet(text, "", most=0)
    return learn_pieces(text, unit, most=most, separator=separator)


@pytest.mark.parametrize("unit", ["words", "bpe"])
@pytest.mark.parametrize("text", [ODD, LINES, "", " ", "\0\x03☃", "a" * 300_000 + "\n" + "b c " * 60_000])
def test_words_and_byte_pairs_lose_nothing(unit: Any, text: str) -> None:
    spelling = learned(unit, separator=True)
    found = spelling.encode(text)
    reader = spelling.reader()
    assert "".join(map(reader.read, found.tokens.tolist())) + reader.rest() == text.replace("\x03", "") or (
        "\x03" in text and found.tokens.tolist().count(spelling.separator) == text.count("\x03")
    )
    assert int(spelling.widths[found.tokens].sum()) == len(text)


def by_hand(document: dict[str, Any], text: str) -> list[int]:
    """As docs/own-texts.md says it, with plain Python."""
    import re

    places = {token: place for place, token in enumerate(document["vocabulary"])}
    bytes_as = byte_characters()
    found: list[int] = []
    for piece in re.findall(r" ?\w+| ?[^\w\s]+|\s", text):
        written = "".join(bytes_as[byte] for byte in piece.encode())
        if document["unit"] == "words":
            found += [places[written]] if written in places else [places[each] for each in written]
            continue
        tokens = [places[each] for each in written]
        merges = [tuple(pair) for pair in document["merges"]]
        while pairs := [pair for pair in zip(tokens, tokens[1:], strict=False) if pair in merges]:
            first = min(pairs, key=merges.index)
            joined = places["".join(document["vocabulary"][token] for token in first)]
            place, after = 0, []
            while place < len(tokens):
                both = tuple(tokens[place : place + 2]) == first
                after.append(joined if both else tokens[place])
                place += 1 + both
            tokens = after
        found += tokens
    return found


@pytest.mark.parametrize("unit", ["words", "bpe"])
def test_the_document_in_the_run_says_how_a_text_is_spelled(unit: Any) -> None:
    spelling = learned(unit)
    assert isinstance(spelling, Pieces)
    document = json.loads(json.dumps(spelling.as_dict()))
    for text in (ODD.replace("\r", ""), LINES[:400], "fox foxes  fox\n"):
        assert spelling.encode(text).tokens.tolist() == by_hand(document, text)
    again = Pieces.from_dict(document)
    assert again == spelling and again.as_dict() == document


def test_words_that_occur_once_are_spelled_in_bytes_and_counted() -> None:
    spelling = learn_pieces("the cat the dog the cat zebra\n", "words", most=400, separator=False)
    assert [name for name in spelling.names if len(name) > 1 and not name.startswith("<0x")] == [" cat", " the"]
    found = spelling.encode("the cat the zebra the über the zebra.")
    assert found.unknown == Counter({"zebra": 2, "über": 1, "the": 1})  # the first one has no blank before it
    assert not found.lost
    smaller = learn_pieces("the cat the dog the cat the\n" * 9, "words", most=257, separator=False)
    assert smaller.size == 257 and smaller.names[-1] == " the"


def test_an_alphabet_is_of_the_training_text_alone() -> None:
    known = learn_alphabet("abcabd", "abc", most=0)
    assert known.alphabet == "abcd" and known.encode("dab").tokens.tolist() == [3, 0, 1]
    lost = known.encode("aXbXY")
    assert lost.lost and lost.unknown == Counter("XXY") and lost.tokens.tolist() == [0, 1]
    one, two = (learn_alphabet("abcabd", others, most=0) for others in ("aXX", "Y"))
    assert one.alphabet == two.alphabet == "\ufffdabcd"  # which ones they are is not learned
    found = one.encode("aXbY")
    assert found.tokens.tolist() == [1, 0, 2, 0] and found.unknown == Counter("XY") and not found.lost
    rare = learn_alphabet("aaabbbccd", "", most=3)
    assert rare.alphabet == "ab\ufffd"
    assert rare.encode("abcd").tokens.tolist() == [0, 1, 2, 2]
    assert learn_alphabet("aaabbc", "aXY", most=3).alphabet == "\ufffdab"
    assert learn_alphabet("aaabbc", "abc", most=3).alphabet == "abc"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": "characters"}, "unit = 'characters' is not words or bpe"),
        ({"vocabulary": ["a", "a"]}, "its vocabulary is too large, or two of its tokens are the same"),
        ({"vocabulary": ["a", "b"]}, "its vocabulary lacks bytes"),
        ({"vocabulary": [*byte_characters(), "☃"]}, "its vocabulary holds a token that is not of bytes"),
        ({"unit": "bpe", "merges": [[1, 999]]}, "its merges name token 999, which there is not"),
        (
            {"vocabulary": [*byte_characters(), "ab"], "unit": "bpe", "merges": [[97, 98]] * 2},
            "two of its merges are the same",
        ),
        ({"merges": []}, "its words have merges, which only byte pairs have"),
        ({"vocabulary": [*byte_characters(), "a" * 1001]}, "its vocabulary holds a token of more than 1,000 bytes"),
    ],
)
def test_a_damaged_document_is_refused(change: dict[str, Any], message: str) -> None:
    spelling = learned("words")
    assert isinstance(spelling, Pieces)
    with pytest.raises(ValueError) as caught:
        Pieces.from_dict(spelling.as_dict() | change)
    assert str(caught.value) == message


# Documents


def test_a_folder_is_one_text_with_a_separator_after_each_document(tmp_path: Path) -> None:
    root = tmp_path / "a"
    (root / "more").mkdir(parents=True)
    (root / "more" / "2.txt").write_text("that is the question" * 20)
    (root / "1.TXT").write_text("to be or not to be\n" * 20)
    (root / "empty.txt").write_text(" \n")
    (root / ".hidden.txt").write_text("no")
    (root / "x.md").write_text("no")
    (root / "latin.txt").write_bytes("na\xefve ".encode("latin-1") * 50)
    (root / "wide.txt").write_bytes(("to the question\r\n" * 30).encode("utf-16"))
    data = prepared(root, val_fraction=0.1)
    expected = "\x03".join(
        ("to be or not to be\n" * 20, "naïve " * 50, "that is the question" * 20, "to the question\n" * 30, "")
    )
    found = "".join(text_of(data, name)[bool(place) :] for place, name in enumerate(("train", "val", "test")))
    assert found == expected[: len(found)] and len(expected) - len(found) < 16
    assert data.notes == (
        f"skipped in {root}: 1 empty, 1 hidden, 1 not .txt",
        f"{root / 'latin.txt'} is read as latin-1, since it is not UTF-8",
        "4 documents, a separator after each; the end of their text is held out",
    )
    several = f"{root / '1.TXT'},{root / 'latin.txt'},{root / 'more'},{root / 'wide.txt'}"
    again = prepared(several)
    assert again.fingerprint == data.fingerprint and text_of(again, "train") == text_of(data, "train")
    (root / "wide.txt").rename(root / "wade.txt")
    assert prepared(root).fingerprint != data.fingerprint


def folder_of(root: Path, count: int) -> Path:
    root.mkdir()
    for n in range(count):
        (root / f"{n:02}.txt").write_text("".join(chr(0x4E00 + n) + str(k) for k in range(60)))
    return root


@pytest.mark.parametrize("unit", UNITS)
def test_of_many_documents_whole_ones_are_held_out(unit: str, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", 40)
    first, same, other = (prepared(root, tokens=unit, length=8, seed=seed) for seed in (0, 0, 1))
    marks = [{c for c in text_of(first, name) if 0x4E00 <= ord(c) < 0x4E00 + 40} for name in ("train", "val", "test")]
    if unit != "characters":  # its alphabet is that of the training text, so that the others are unknown
        assert [len(found) for found in marks] == [32, 4, 4]
        assert not (marks[0] & marks[1] or marks[0] & marks[2] or marks[1] & marks[2])
        assert text_of(other, "val") != text_of(first, "val")
    assert (
        "40 documents, a separator after each; 4 whole ones are held out for validation, 4 for testing" in first.notes
    )
    assert [text_of(first, name) for name in ("train", "val")] == [text_of(same, name) for name in ("train", "val")]
    assert text_of(other, "test") == text_of(first, "test")


def test_folders_and_options_say_the_splits(tmp_path: Path) -> None:
    for place, text in {"train/a": "abcdefgh ", "train/b": "ABC ", "val/c": "12 ", "Test/d/e": "345 "}.items():
        (tmp_path / "all" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / f"{place}.txt").write_text(text * 60)
    data = prepared(tmp_path / "all", val_fraction=None, tokens="words", length=8)
    assert set(text_of(data, "val")) <= set("12 \x03") and set(text_of(data, "test")) <= set("345 \x03")
    assert "4 documents, a separator after each; their files say the splits" in data.notes
    root = tmp_path / "all"
    named = prepared(
        root / "train", val_fraction=None, val=str(root / "val"), test=str(root / "Test"), tokens="words", length=8
    )
    assert [text_of(named, name) for name in ("train", "val", "test")] == [
        text_of(data, name) for name in ("train", "val", "test")
    ]
    only = prepared(root / "train", val=str(root / "val"), tokens="words", length=8, val_fraction=None)
    assert only.test is not None and set(text_of(only, "test")) <= set("ABC \x03")
    with pytest.raises(ConfigError) as caught:
        prepare(
            text_file(Path(), path=str(root), length=8), val_fraction=0.2, test_fraction=None, normalize=True, seed=0
        )
    assert str(caught.value) == "val_fraction = 0.2 cannot be used with data that has a validation set of its own"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"vocabulary": 256, "tokens": "words"}, ConfigError,
         "data.vocabulary = 256 is out of range: it must be in [257, 30000], of which 256 are the bytes"),
        ({"vocabulary": 1}, ConfigError, "data.vocabulary = 1 is out of range: it must be in [2, 30000]"),
        ({"length": 0}, ConfigError, "data.length = 0 must be at least 1"),
        ({"tokens": "words", "length": 300}, DataError,
         "the val text has 112 words, too few for a row of 300: take a longer text or a smaller data.length"),
        ({"val": "{}"}, ConfigError, "data text:{}: {} is named twice: name it once"),
        ({"path": "{},{}"}, ConfigError, "data text:{},{}: {} is named twice: name it once"),
        ({"path": "{},"}, DataError, "{}, does not exist: did you mean a.txt?"),
        ({"path": "{},no.txt"}, DataError, "no.txt does not exist: did you mean a.txt?"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text(LINES[:5400])
    given = {
        name: value.format("a.txt", "a.txt") if isinstance(value, str) else value for name, value in options.items()
    }
    with pytest.raises(error) as caught:
        prepared(**({"path": "a.txt", "val_fraction": None if "val" in options else 0.05} | given))
    assert str(caught.value) == message.format(*["a.txt"] * 3)


@pytest.mark.parametrize("option", ["val", "test"])
@pytest.mark.parametrize(("empty", "named"), [("b.txt", "b.txt"), ("all/b.txt", "all")])
def test_a_split_that_is_named_must_have_text(option: str, empty: str, named: str, tmp_path: Path, call: Call) -> None:
    (tmp_path / "a.txt").write_text(LINES)
    (tmp_path / "all").mkdir()
    (tmp_path / empty).write_text(" \n")
    purpose = {"val": "validation", "test": "testing"}[option]
    assert call("train", "rnn", "--data", "text:a.txt", f"--{option}-data", named)[::2] == (
        3, f"error: {tmp_path / named} has no text for {purpose}: its files are empty\n",
    )  # fmt: skip
    assert call("train", "rnn", "--data", "text:a.txt", f"--{option}-data", "")[::2] == (
        2, f"error: data.{option} is empty: name a file, or leave it out\n",
    )  # fmt: skip
    assert not (tmp_path / "runs").exists()


def test_files_outside_the_folders_of_splits_are_refused(tmp_path: Path, call: Call) -> None:
    root = tmp_path / "all"
    for place in ("train/a.txt", "val/b.txt", "README.txt"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(LINES)
    mend = "move such files into one of them, or name folders with --val-data and --test-data"
    assert call("train", "rnn", "--data", "text:all")[::2] == (
        3, f"error: {root} has folders for the splits, but also {root}/README.txt outside them: {mend}\n",
    )  # fmt: skip
    for name in ("1", "2", "3"):
        (root / "more" / name).mkdir(parents=True)
        (root / "more" / name / "c.txt").write_text(LINES)
    told = f"{root}/README.txt, {root}/more/1/c.txt, {root}/more/2/c.txt and 1 more"
    assert call("train", "rnn", "--data", "text:all")[::2] == (
        3, f"error: {root} has folders for the splits, but also {told} outside them: {mend}\n",
    )  # fmt: skip
    (root / "train").rename(root / "test")  # a name that need not mean a split
    assert "6 documents, a separator after each; the end of their text is held out" in prepared(root).notes


def test_a_file_under_two_names_is_refused(tmp_path: Path, call: Call) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text(LINES)
    (tmp_path / "b.txt").symlink_to(tmp_path / "d" / "a.txt")
    first = f"{tmp_path}/d/a.txt"
    for other in ("d/../d/a.txt", "b.txt"):
        assert call("train", "rnn", "--data", "text:d/a.txt", "--test-data", other)[::2] == (
            2, f"error: data text:{first}: {first} and {tmp_path}/{other} are the same file: name it once\n",
        )  # fmt: skip


def test_a_list_of_files_may_be_longer_than_a_path(tmp_path: Path, call: Call) -> None:
    names = [f"{n:060}.txt" for n in range(120)]
    for name in names:
        (tmp_path / name).write_text(LINES[:200])
    code, _, err = call("datasets", "inspect", f"text:{','.join(names)}")
    assert code == 0, err
    how = ("--set", "data.length=8", "--set", "model.hidden=2", "--steps", "1", "--quiet")
    code, _, err = call("train", "rnn", "--data", f"text:{','.join(names)}", *how)
    assert code == 0, err


def test_files_of_different_folders_are_described(tmp_path: Path, call: Call) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text(LINES)
    for named, folder, names in (
        (f"{tmp_path}/a.txt,{tmp_path}/d/a.txt", str(tmp_path), ["a.txt", "d/a.txt"]),
        (f"a.txt,{tmp_path}/d/a.txt", str(tmp_path), ["a.txt", "d/a.txt"]),
        ("a.txt,d/a.txt", ".", ["a.txt", "d/a.txt"]),
        ("d/a.txt", "d", ["a.txt"]),
    ):
        code, out, err = call("datasets", f"text:{named}", "--json")
        assert code == 0, err
        found = json.loads(out)["files"]
        missing = [name for name in names if len(names) > 1 and name == "a.txt"]
        assert (found["folder"], found["names"], found["missing"]) == (folder, names, missing)


def test_a_vocabulary_of_n_characters_has_n(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcab" * 40)
    (tmp_path / "b.txt").write_text("abxyz" * 40)
    data = prepared(tmp_path / "a.txt", test=str(tmp_path / "b.txt"), val_fraction=0.1, length=8, vocabulary=3)
    assert data.preprocessing.alphabet == "ab\ufffd" and data.spec.vocabulary == 3


def test_a_long_run_of_one_sign_is_learned_in_tokens_that_a_run_may_hold() -> None:
    spelling = learned("bpe", "=" * 9000 + "\n" + "=" * 9000)
    assert isinstance(spelling, Pieces)
    assert max(map(len, spelling.vocabulary)) > 500 and Pieces.from_dict(spelling.as_dict()) == spelling


def test_files_of_several_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(LINES)
    for content, place in ((b"a\n\x03b", "2 is not text: it holds the control character 0x03"),):
        (tmp_path / "b.txt").write_bytes(content)
        with pytest.raises(DataError) as caught:
            prepared(tmp_path)
        assert str(caught.value) == f"{tmp_path / 'b.txt'}:{place}"
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("\n")
    with pytest.raises(DataError) as caught:
        prepared(tmp_path)
    assert str(caught.value) == f"{tmp_path} holds only empty .txt files"


@pytest.mark.parametrize("unit", UNITS)
def test_held_out_text_changes_nothing_that_is_learned(unit: str, tmp_path: Path) -> None:
    for name, end in (("a", "fox saw dogs\n" * 100), ("b", "Qu'est-ce que c'est?\n" * 62)):
        (tmp_path / f"{name}.txt").write_text((LINES + end)[: len(LINES) + 1300])
    one, two = (prepared(tmp_path / f"{name}.txt", tokens=unit) for name in "ab")
    assert text_of(one, "train") == text_of(two, "train") and text_of(one, "test") != text_of(two, "test")
    if unit == "characters":  # of unknown characters only that there are some
        assert one.spec.vocabulary + 1 == two.spec.vocabulary
        assert two.preprocessing.alphabet.replace("\ufffd", "") == one.preprocessing.alphabet
        why = "which the training text has not, or too rarely for the vocabulary"
        assert two.unknown["test"].startswith(f"unknown characters, {why}: ")
    else:
        assert one.preprocessing == two.preprocessing


# Metrics


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("model", ["rnn", "attention"])
def test_bits_per_character_are_those_of_a_plain_sum(unit: str, model: str, tmp_path: Path, call: Call) -> None:
    (tmp_path / "a.txt").write_text(LINES)
    small = {"rnn": "model.hidden=8", "attention": "model.width=8"}[model]
    how = ("--set", "data.length=9", "--set", f"data.tokens={unit}", "--set", "data.vocabulary=300", "--set", small)
    code, _, err = call("train", model, "--data", "text:a.txt", *how, "--epochs", "1", "--batch-size", "64")
    assert code == 0, err
    run = Run(tmp_path / "runs", 1)
    restored = restore(run)
    for name in ("train", "val", "test"):
        metrics = evaluate(run, split=name).metrics
        split = prepared(tmp_path / "a.txt", tokens=unit, length=9, vocabulary=300).split(name)
        rows = split.rows.take(split.index)[0].long()
        bits, texts = 0.0, 0
        for row in rows:
            with torch.no_grad():
                logits = restored.model(row[None, :-1])[0].double()
            bits -= float(F.log_softmax(logits, 1).gather(1, row[1:, None]).sum()) / math.log(2)
        # Each character counts where its first byte is predicted.
        about = restored.preprocessing
        if about.pieces is None:
            texts = rows[:, 1:].numel()
        else:
            content = b"".join(about.pieces.content(int(token)) for token in rows[:, 1:].flatten())
            texts = sum(byte & 0xC0 != 0x80 for byte in content)
        assert metrics["bits_per_char"] == pytest.approx(bits / texts, rel=1e-5)
        assert metrics["perplexity"] == pytest.approx(2 ** (bits / rows[:, 1:].numel()), rel=1e-4)
        if unit == "characters":
            assert metrics["bits_per_char"] == pytest.approx(metrics["loss"] / math.log(2), rel=1e-12)
        else:
            assert metrics["bits_per_char"] < metrics["loss"] / math.log(2)


# Commands


@pytest.mark.parametrize("unit", UNITS)
def test_every_command_works_with_every_unit(unit: str, tmp_path: Path, call: Call) -> None:
    (tmp_path / "a.txt").write_text(LINES)
    how = ("--set", f"data.tokens={unit}", "--set", "data.length=8", "--set", "model.hidden=8", "--epochs", "1")
    code, _, err = call("train", "rnn", "--data", "text:a.txt", *how)
    assert code == 0, err
    if unit != "characters":
        assert " characters as " in err
    about = preprocessing_of(Run(tmp_path / "runs", 1))
    assert (about.pieces is None) == (unit == "characters") and about.spelling is not None
    code, _, err = call("eval", "1")
    assert code == 0, err
    (tmp_path / "new.txt").write_text("The old Zyx saw the fox; ☃ ran away\n" * 20)
    code, out, err = call("eval", "1", "--data", "text:new.txt", "--json")
    if unit == "characters":
        assert code == 3 and json.loads(err)["error"] == "the text has characters that the model never saw: 'Z' '☃'"
    elif unit == "words":
        why = "which the training text has once, never, or too rarely for the vocabulary, spelled in bytes"
        assert code == 0 and f"unknown words, {why}: " in err
        assert json.loads(out)["unknown"].startswith("unknown words")
    else:
        assert code == 0 and "unknown" not in err + out
    (tmp_path / "line.txt").write_text("The old fox saw 7 dogs")
    code, out, err = call("predict", "1", "line.txt", "--json")
    assert code == 0, err
    assert json.loads(out)[0]["characters"] == 22
    code, out, err = call("generate", "1", "--prompt", "The ☃ zebra", "--length", "40", "--json")
    assert code == 0, err
    assert ("unknown" in err) == (unit != "bpe")
    text = json.loads(out)["text"]
    assert len(text) == 40
    code, out, _ = call("generate", "1", "--prompt", "The ☃ zebra", "--length", "40")
    assert code == 0 and out.startswith("The ☃ zebra") and out.encode().decode() == out
    code, _, err = call("resume", "1", "--epochs", "2")
    assert code == 0 and "exact: yes" in err
    code, _, err = call("explain", "1", "The old fox")
    assert code == 0, err
    code, _, err = call("datasets", "inspect", "text:a.txt", "--set", f"data.tokens={unit}")
    assert code == 0, err


@pytest.mark.parametrize("unit", ["words", "bpe"])
def test_generated_text_is_whole_characters(unit: Literal["words", "bpe"], tmp_path: Path, call: Call) -> None:
    """A model that says the bytes of one character after the other, and then one that is incomplete."""
    (tmp_path / "a.txt").write_text(LINES)
    how = ("--set", f"data.tokens={unit}", "--set", "data.length=8", "--set", "model.hidden=8", "--epochs", "1")
    assert call("train", "rnn", "--data", "text:a.txt", *how)[0] == 0
    restored = restore(Run(tmp_path / "runs", 1))
    pieces = restored.preprocessing.pieces
    assert pieces is not None
    wanted = [*"☃é".encode(), 0xE2, ord("a")]
    tokens = [pieces.vocabulary.index(byte_characters()[byte]) for byte in wanted]

    class Says(torch.nn.Module):
        place = 0

        def run(self, x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
            logits = torch.zeros(1, x.shape[1], pieces.size)
            logits[0, -1, tokens[self.place % len(tokens)]] = 50.0
            self.place += 1
            return logits, state

    import dataclasses

    speaking = dataclasses.replace(restored, model=Says())
    assert list(generate(speaking, "x", length=4, temperature=0)) == ["☃", "é", "\ufffda"]
    speaking = dataclasses.replace(restored, model=Says())
    assert "".join(generate(speaking, "x", length=3, temperature=0)) == "☃é\ufffd"


def test_a_document_that_ends_ends_what_is_generated(tmp_path: Path, call: Call) -> None:
    (tmp_path / "a").mkdir()
    for n in range(30):
        (tmp_path / "a" / f"{n}.txt").write_text("yes and no")
    for unit in UNITS:
        how = ("--set", f"data.tokens={unit}", "--set", "data.length=4", "--lr", "0.05", "--epochs", "40")
        code, _, err = call("train", "rnn", "--data", "text:a", *how, "--set", "model.hidden=16", "--quiet")
        assert code == 0, err
        code, out, err = call("generate", "latest", "--temperature", "0", "--length", "99")
        assert (code, out) == (0, "yes and no\n"), (unit, err)


def test_files_that_changed_are_counted_by_eval_and_resume(tmp_path: Path, call: Call) -> None:
    root = folder_of(tmp_path / "a", 12)
    how = ("--set", "data.length=8", "--set", "model.hidden=8", "--epochs", "1")
    code, _, err = call("train", "rnn", "--data", "text:a", *how)
    assert code == 0, err
    (root / "00.txt").write_text("another text " * 20)
    (root / "new.txt").write_text("a new text " * 20)
    (root / "11.txt").unlink()
    for words in (("eval", "1"), ("resume", "1", "--epochs", "2")):
        code, _, err = call(*words)
        assert (code, err) == (
            3,
            f"error: data text:{root} has changed since the model was trained on it (1 new, 1 missing, 1 changed): "
            f"restore it, or use it as it is now with --data text:{root}\n",
        )
    code, out, _ = call("cache", "--json")
    assert code == 0 and [row["images"] for row in json.loads(out)] == [12, 12]


def test_several_files_keep_their_places(tmp_path: Path, call: Call) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(LINES)
    how = ("--set", "data.length=8", "--set", "model.hidden=8", "--epochs", "1", "--set", "data.test=c.txt")
    (tmp_path / "c.txt").write_text(LINES[:600])
    code, _, err = call("train", "rnn", "--data", "text:a.txt,b.txt", *how)
    assert code == 0, err
    settings = Run(tmp_path / "runs", 1).config()
    assert settings.data == f"text:{tmp_path}/a.txt,{tmp_path}/b.txt"
    assert settings.data_options["test"] == f"{tmp_path}/c.txt"
    assert call("eval", "1")[0] == 0
    (tmp_path / "b.txt").unlink()
    code, _, err = call("eval", "1")
    assert (code, err) == (
        3, f"error: {tmp_path}/b.txt does not exist: if it was moved, name its new place with --data text:PATH\n",
    )  # fmt: skip


@pytest.mark.parametrize("unit", ["words", "bpe"])
def test_an_export_has_the_mapping_beside_it(unit: str, tmp_path: Path, call: Call) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    (tmp_path / "a.txt").write_text(LINES)
    how = ("--set", f"data.tokens={unit}", "--set", "data.length=8", "--set", "model.width=8", "--epochs", "1")
    assert call("train", "attention", "--data", "text:a.txt", *how)[0] == 0
    code, _, err = call("export", "1", "--format", "onnx")
    assert code == 0, err
    record = json.loads((tmp_path / "runs/1/export/onnx.json").read_text())
    tokens = by_hand(record["preprocessing"]["pieces"], "The old fox saw")[:8]
    session = onnxruntime.InferenceSession(tmp_path / "runs/1/export/model.onnx")
    (logits,) = session.run(None, {"tokens": np.array([tokens])})
    restored = restore(Run(tmp_path / "runs", 1))
    expected = restored.answer(torch.tensor([tokens]))
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)


def test_a_baseline_with_other_tokens_is_compared_by_bits_per_character(tmp_path: Path, call: Call) -> None:
    (tmp_path / "a.txt").write_text(LINES)
    how = ("--set", "data.length=8", "--set", "model.hidden=8", "--epochs", "1", "--quiet")
    for unit in ("characters", "characters", "words"):
        assert call("train", "rnn", "--data", "text:a.txt", "--set", f"data.tokens={unit}", *how)[0] == 0
    _, out, _ = call("eval", "2", "--baseline", "1", "--json")
    assert json.loads(out)["baseline"]["metric"] == "loss"
    code, out, err = call("eval", "3", "--baseline", "1", "--max-drop", "9", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["baseline"]["metric"] == "bits_per_char"
    assert found["baseline"]["value"] == pytest.approx(found["metrics"]["bits_per_char"])


def test_other_data_and_long_names(tmp_path: Path, call: Call) -> None:
    (tmp_path / "a.txt").write_text(LINES)
    assert call("train", "mlp", "--data", "iris", "--epochs", "1", "--quiet")[0] == 0
    assert call("eval", "1", "--data", "text:a.txt")[::2] == (
        3,
        f"error: data text:{tmp_path}/a.txt is a text for next-token, and does not have the shape that the model was "
        "trained on (features of 4, 3 outputs, multiclass)\n",
    )
    how = ("--set", "data.length=8", "--set", "model.hidden=8", "--epochs", "1", "--quiet")
    assert call("train", "rnn", "--data", "text:a.txt", *how)[0] == 0
    names = [f"{n:0100}.txt" for n in range(4)]
    for name in names:
        (tmp_path / name).write_text(LINES)
    code, _, err = call("eval", "2", "--data", f"text:{','.join(names)}")
    assert (code, err) == (0, "")
    assert len(list((tmp_path / "runs" / "2" / "eval").glob("test-*.json"))) == 1
    _, out, _ = call("datasets", f"text:{names[0]},no.txt", "--json")
    found = json.loads(out)["files"]
    assert (found["names"], found["missing"]) == ([names[0], "no.txt"], ["no.txt"])


# ------------------------------------------------------------------------------------------------ kept and compared


def test_a_resume_keeps_the_tokens_of_the_model(dlcli: Dlcli, tmp_path: Path) -> None:
    """Also on other text: other tokens under the same weights would make them another model."""
    (tmp_path / "a.txt").write_text("the cat sat on the mat, and the dog ran. " * 60)
    (tmp_path / "b.txt").write_text("boats sail over blue water; birds fly above them. " * 60)
    words = ("--set", "data.length=8", "--set", "model.hidden=8", "--device", "cpu", "--quiet")
    dlcli("train", "rnn", "--data", "text:a.txt", "--set", "data.tokens=bpe", "--set", "data.vocabulary=270", *words,
          "--steps", "3")  # fmt: skip
    before = preprocessing_of(Run(tmp_path / "runs", 1)).pieces
    dlcli("resume", "1", "--data", "text:b.txt", "--steps", "5", "--quiet")
    assert before is not None and preprocessing_of(Run(tmp_path / "runs", 1)).pieces == before
    done = dlcli("resume", "1", "--set", "data.vocabulary=280", "--steps", "7", check=2)
    assert done.stderr == ("error: data.vocabulary = 280, but the weights of runs/1 know its tokens: train a new run\n")


def test_unknown_characters_cost_the_bits_of_their_names(dlcli: Dlcli, tmp_path: Path) -> None:
    """So a model that merges all rare characters is not the better for it."""
    (tmp_path / "a.txt").write_text("the cat sat on the mat, and the dog ran. " * 60)
    words = ("--data", "text:a.txt", "--set", "data.length=8", "--set", "model.hidden=8", "--steps", "3", "--quiet")
    dlcli("train", "rnn", *words, "--set", "data.vocabulary=2", "--device", "cpu")
    found = json.loads(dlcli("eval", "1", "--json").stdout)
    text = (tmp_path / "a.txt").read_text()
    blocks = (len(text) - 1) // 8
    held = text[(blocks - found["samples"]) * 8 :][1 : found["samples"] * 8 + 1]
    rare = sum(character != " " for character in held)
    expected = found["metrics"]["loss"] / math.log(2) + rare / len(held) * math.log2(0x110000)
    assert found["metrics"]["bits_per_char"] == pytest.approx(expected, rel=1e-4)


def test_losses_of_other_tokens_are_not_compared(dlcli: Dlcli, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat sat on the mat, and the dog ran. " * 60)
    words = ("--data", "text:a.txt", "--set", "data.length=8", "--set", "model.hidden=8", "--steps", "3", "--quiet")
    for tokens in ("characters", "words"):
        dlcli("train", "rnn", *words, "--set", f"data.tokens={tokens}", "--device", "cpu")
        dlcli("train", "rnn", *words, "--set", f"data.tokens={tokens}", "--device", "cpu", "--monitor", "bits_per_char")
    assert "finds runs whose data or splits differ" in dlcli("runs", "select", "best:loss", check=4).stderr
    assert dlcli("runs", "select", "best:bits_per_char").stdout.strip() in ("2", "4")


def test_a_folder_that_was_one_text_still_is_for_its_run(tmp_path: Path) -> None:
    from dlcli.data.texts.corpus import Corpus, from_text
    from dlcli.data.texts.documents import read_documents

    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"{name} text of the document {name}, again and again. " * 9)
    corpus = Corpus.of(read_documents(str(tmp_path)), tokens="characters", vocabulary=0, length=8)
    once = "".join(f"{(tmp_path / f'{name}.txt').read_text()}\n" for name in "ab")
    before = from_text(once, length=8).fingerprint
    assert corpus.fingerprint != before and corpus.as_it_was(corpus.fingerprint) is corpus
    assert corpus.as_it_was(before).fingerprint == before and corpus.as_it_was("other") is corpus
