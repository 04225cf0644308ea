"""Characters as tokens: every character except the first is predicted once; unreadable files are reported."""

import os
from pathlib import Path

import pytest
import torch

from dlcli.core.errors import ConfigError, DataError
from dlcli.core.spec import DataSpec
from dlcli.data import download, published
from dlcli.data.readers.text import read_text
from dlcli.data.source import Source
from dlcli.data.text import pydocs, text_file, tinyshakespeare
from dlcli.data.texts.corpus import Corpus, from_text, respelt
from tests.conftest import DATA_DIR, needs_data

PANGRAM = "The quick brown fox jumps over the lazy dog.\n" * 5


def whole(corpus: Corpus) -> Source:
    """All of it as rows."""
    return corpus.fit(torch.arange(corpus.rows), None)


def decoded(source: Source) -> list[str]:
    return ["".join(source.alphabet[token] for token in row) for row in source.x.tolist()]


def test_rows_are_cut_in_order_and_overlap_by_one() -> None:
    source = from_text(PANGRAM, length=10)
    rows = decoded(source)
    assert len(rows) == (len(PANGRAM) - 1) // 10
    assert rows == [PANGRAM[10 * i : 10 * i + 11] for i in range(len(rows))]
    targets = "".join(row[1:] for row in rows)
    assert targets == PANGRAM[1 : 1 + len(targets)]


def test_a_token_is_the_place_of_its_character_in_the_sorted_alphabet() -> None:
    source = from_text(PANGRAM, length=10)
    assert source.alphabet == "".join(sorted(set(PANGRAM)))
    assert source.spec == DataSpec("next-token", "tokens", (10,), 30, vocabulary=30)
    assert source.y is None and source.ordered
    assert source.x.dtype == torch.uint8


def test_characters_beyond_the_first_plane_and_large_alphabets_survive() -> None:
    characters = "".join(chr(c) for c in range(0x4E00, 0x4E00 + 300)) + "🎈é"
    source = from_text(characters * 2, length=20)
    assert source.spec.vocabulary == 302
    assert decoded(source)[15] == (characters * 2)[300:321]


@pytest.mark.parametrize("extra", [0, 1, 9, 10, 11])
def test_the_shortest_text_that_is_long_enough(extra: int) -> None:
    source = from_text("ab" * 50 + "x" * (1 + extra), length=10)
    assert source.x.shape == (10 + extra // 10, 11)


def test_a_short_text_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        from_text("x" * 100, length=10)
    assert str(caught.value) == (
        "a text of 100 characters is too short: rows of 10 need at least 101; "
        "take a longer text or a smaller data.length"
    )
    with pytest.raises(ConfigError) as refused:
        from_text(PANGRAM, length=0)
    assert str(refused.value) == "data.length = 0 must be at least 1"


def test_a_file_is_read_without_its_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbf" + PANGRAM.encode())
    source = whole(text_file(tmp_path, path=str(file), length=10))
    assert decoded(source)[0] == PANGRAM[:11]
    assert "﻿" not in source.alphabet


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"

    def said(content: bytes) -> str:
        file.write_bytes(content)
        with pytest.raises(DataError) as caught:
            text_file(tmp_path, path=str(file))
        return str(caught.value)

    assert said(b"a\nb\0c") == f"{file}:2 is not text: it holds the control character 0x00"
    assert said(b"\xffa\nb\1c") == f"{file}:2 is not text: it holds the control character 0x01"
    assert said(b"a" * 2000) == "a text of nothing but 'a' has nothing to predict: take another one"
    assert said(b"") == (
        "a text of 0 characters is too short: rows of 128 need at least 1281; "
        "take a longer text or a smaller data.length"
    )


def test_line_ends_of_other_systems_are_one_character(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"one\r\ntwo\rthree\n")
    assert read_text(file) == "one\ntwo\nthree\n"


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            text_file(tmp_path, path=str(path))
        return str(caught.value)

    assert said(tmp_path / "missing.txt") == f"{tmp_path / 'missing.txt'} does not exist"
    assert said(tmp_path / "no" / "folder.txt") == f"{tmp_path / 'no' / 'folder.txt'} does not exist"
    (tmp_path / "story.txt").write_text(PANGRAM)
    assert said(tmp_path / "stroy.txt") == f"{tmp_path / 'stroy.txt'} does not exist: did you mean story.txt?"
    (tmp_path / "empty").mkdir()
    assert said(tmp_path / "empty") == f"{tmp_path / 'empty'} holds no .txt files: name another folder, or a file"
    os.mkfifo(tmp_path / "pipe")
    assert said(tmp_path / "pipe") == f"{tmp_path / 'pipe'} is no regular file"


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch) -> None:
    def refuses(path: Path, *flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "a.txt").write_text(PANGRAM)
    monkeypatch.setattr(os, "open", refuses)
    with pytest.raises(DataError) as caught:
        text_file(tmp_path, path=str(tmp_path / "a.txt"))
    assert str(caught.value) == f"{tmp_path / 'a.txt'} cannot be read: Permission denied"


def test_tinyshakespeare_is_held_against_its_sha256(tmp_path: Path, monkeypatch) -> None:
    (archive,) = published.TINYSHAKESPEARE
    file = tmp_path / "tinyshakespeare" / "input.txt"
    file.parent.mkdir()
    for content in (PANGRAM, "a" * 1_115_394):
        file.write_text(content)
        with pytest.raises(DataError) as caught:
            tinyshakespeare(tmp_path)
        assert str(caught.value) == (
            f"{file} is not tinyshakespeare, or damaged: its sha256 is not {archive.sha256}; delete it to download it "
            f"again, or train on it as --data text:{file}"
        )
    file.unlink()
    asked = []

    def refuses(url: str, *rest: object) -> bytes:
        asked.append(url)
        raise download._Refused("no route to host")

    monkeypatch.setattr(download, "_get", refuses)
    with pytest.raises(DataError) as caught:
        tinyshakespeare(tmp_path)
    assert str(caught.value) == (
        f"tinyshakespeare is not in the data folder and cannot be downloaded ({archive.urls[0]}: no route to host): "
        f"put input.txt (sha256 {archive.sha256}) into {file.parent}, or choose --data-dir"
    )


@needs_data("tinyshakespeare", "input.txt")
def test_the_real_tinyshakespeare() -> None:
    source = whole(tinyshakespeare(Path(DATA_DIR)))
    assert source.spec.vocabulary == 65
    assert source.x.shape == (1115393 // 128, 129)
    assert decoded(source)[0].startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n")


def test_pydocs_is_pythons_help_with_every_paragraph_once() -> None:
    from pydoc_data.topics import topics

    source = whole(pydocs(Path("/nowhere")))
    joined = "".join(row[:-1] for row in decoded(source))
    assert len(joined) > 300_000
    known = {paragraph for topic in topics.values() for paragraph in topic.split("\n\n")}
    known = {paragraph.strip("\n") for paragraph in known}
    paragraphs = [paragraph.strip("\n") for paragraph in joined.split("\n\n")[:-1]]  # the last one is cut off
    assert set(paragraphs) <= known
    assert len(paragraphs) == len(set(paragraphs))
    assert len(paragraphs) > 0.99 * len(known)


def test_a_text_is_respelt_in_another_alphabet() -> None:
    wide = "".join(chr(c) for c in range(0x4E00, 0x4E00 + 300))
    source = from_text("abcad" * 9, length=4)
    other = respelt(source, "xdcba" + wide)
    assert decoded(other) == decoded(source)
    assert other.spec == DataSpec("next-token", "tokens", (4,), 305, vocabulary=305)
    with pytest.raises(DataError) as caught:
        respelt(source, "ab")
    assert str(caught.value) == "the text has characters that the model never saw: 'c' 'd'"
