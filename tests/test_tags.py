"""`dlcli runs tag` and `dlcli runs note`: in files of their own; conditions and columns for them."""

import json
from pathlib import Path

import pytest

from dlcli.cli.repeating import Seen, repeated
from tests.test_compare import make
from tests.test_where import call, listed


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs 1 to 3."""
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        make(Path("runs"), 0.9 + seed / 100, seed=seed)
    return Path("runs")


def test_tags_are_added_and_removed(root: Path) -> None:
    before = (root / "1/run.json").read_bytes()
    assert call("tag", "1:2", "+good", "+of-5.2")[0] == "run  tags\n  1  good of-5.2\n  2  good of-5.2\n"
    assert call("tag", "1", "-good", "+hot", "-never-there")[0] == "run  tags\n  1  hot of-5.2\n"
    assert call("tag", "1", "-hot", "-of-5.2")[0] == "run  tags\n  1  -\n"  # not -h, and no file is left
    assert sorted(path.name for path in (root / "1").iterdir() if path.suffix == ".txt") == []
    assert json.loads(call("tag", "2", "3", "--json")[0]) == [
        {"run": 2, "tags": ["good", "of-5.2"]}, {"run": 3, "tags": []},
    ]  # fmt: skip
    assert (root / "1/run.json").read_bytes() == before


def test_runs_are_listed_by_tag(root: Path) -> None:
    call("tag", "1", "2", "+good")
    call("tag", "2", "3", "+new")
    assert listed("--tag", "good") == [2, 1]
    assert listed("--tag", "good", "--tag", "new") == [2]
    assert listed("--where", "tag != good") == [3]
    assert call("--columns", "run,tag", "--last", "2")[0] == "run       tag\n  3       new\n  2  good,new\n"
    assert listed("--where", "tag = good and seed = 0") == [1]
    assert call("select", "--tag", "new", "--all")[0] == "3\n2\n"
    rows = json.loads(call("--json")[0])
    assert [row["tags"] for row in rows] == [["new"], ["good", "new"], ["good"]]
    assert call("--tag", "bad")[1] == "there are no runs that fit in runs\n"
    assert "error: --where 'tag < 3': a run has a tag or not, so use = or !=\n" == call("--where", "tag < 3", code=2)[1]


def test_a_note_is_written_shown_and_removed(root: Path) -> None:
    assert call("note", "2")[1] == "runs/2 has no note: write one with dlcli runs note 2 TEXT\n"
    assert call("note", "2", "rate too high;\nsee 7")[1] == "runs/2: noted\n"
    assert call("note", "2")[0] == "rate too high;\nsee 7\n"
    assert [row["note"] for row in json.loads(call("--json")[0])] == [None, "rate too high;\nsee 7", None]
    out = call()[0].splitlines()
    assert out[0].split()[-1] == "note" and out[2].endswith("rate too high;\N{REPLACEMENT CHARACTER}see 7")
    assert call("note", "2", " ")[1] == "runs/2: the note was removed\n"
    assert not (root / "2/note.txt").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("tag", "+good"), 2, "name the runs to tag: dlcli runs tag 7 +good"),
        (("tag", "1", "+x", "-x"), 2, "+x and -x contradict each other: leave one out"),
        (("tag", "1", "+a b"), 2, "'a b' cannot be a tag: use a letter, then up to 63 letters, digits, dots, dashes "
                                  "and underscores"),
        (("tag", "1", "good"), 4, "there is no run named good in runs: see `dlcli runs`; to add a tag, write +good"),
        (("--status", "finishd"), 2, "--status finishd is no status: did you mean finished?"),
        (("tag", "9", "+good"), 4, "there is no run 9 in runs: see `dlcli runs`"),
        (("note", "1", "\033[31m"), 2, "a note is plain text, without control characters: write it without them"),
        (("note", "1", "x" * 10_000), 2, "a note has at most 10,000 bytes: write a shorter one"),
        (("note", "1:2", "x"), 4, "1:2 names 2 runs, but one is wanted"),
    ],
)  # fmt: skip
def test_mistakes(root: Path, words: tuple[str, ...], code: int, message: str) -> None:
    assert call(*words, code=code)[1] == f"error: {message}\n"
    assert listed("--tag", "good") == []


def test_a_strangers_tags_and_note_are_only_text(root: Path) -> None:
    (root / "1/tags.txt").write_text("good\n\033[31mred\n../../x\n" + "y" * 70 + "\n")
    (root / "2/tags.txt").write_bytes(b"\xff\xfe")
    (root / "2/note.txt").symlink_to("/etc/hostname")
    (root / "3/tags.txt").mkdir()
    assert [(row["tags"], row["note"]) for row in json.loads(call("--json")[0])] == [
        ([], None), ([], None), (["good"], None),
    ]  # fmt: skip
    assert call("tag", "3", "+good", code=6)[1] == "error: cannot write runs/3/tags.txt: Is a directory\n"


def test_only_the_newest_are_looked_at(root: Path) -> None:
    assert listed("--last", "2") == [3, 2]
    assert listed("--last", "2", "--sort", "seed") == [2, 3]
    assert listed("--last", "2", "--where", "seed = 0") == []
    assert listed("--last", "3", "--limit", "1") == [3]
    assert listed("--status", "finished", "--last", "1") == [3]
    assert listed("--status", "failed") == []
    assert call("--last", "-1", code=2)[1] == "error: --last -1 must be at least 0\n"


def test_seeds_are_folded(root: Path) -> None:
    make(root, 0.5, seed=0, lr=0.3)
    make(root, 0.99, seed=7, info={"status": "failed"})
    assert call("--group-by", "config")[0].splitlines() == [
        "runs  model  data    lr    metric        n    mean     std    from      to",
        "4     cnn    digits  0.3   val/accuracy  1  0.5000       -       -       -",
        "1:3   cnn    digits  0.01  val/accuracy  3  0.9100  0.0100  0.8852  0.9348",
    ]
    (row, _) = json.loads(call("--group-by", "config", "--where", "lr < 0.5", "--json")[0])
    assert (row["runs"], row["count"], row["settings"]) == ("4", 1, {"lr": 0.3})
    assert call("--group-by", "config", "--sort", "lr", code=2)[1] == (
        "error: --group-by shows a fixed table: leave out --columns, --only-changed, --sort, --limit and --watch\n"
    )
    assert call("--group-by", "config", "--tag", "x")[1] == (
        "there are no finished runs to put together in runs: see `dlcli runs`\n"
    )


def test_a_table_is_shown_again_when_it_changes_until_nothing_can(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    seen = iter([(1, True), (1, True), (2, True), (2, False)])

    def look() -> Seen:
        what, live = next(seen)
        return Seen(what, live, lambda: print("table", what))

    repeated(look)
    assert capsys.readouterr().out == "table 1\ntable 2\n"


def test_watching_runs_that_have_ended_shows_them_once(root: Path) -> None:
    assert call("--watch", "--columns", "seed")[0].splitlines() == ["run  seed", "  3     2", "  2     1", "  1     0"]
    assert call("--watch", "--csv", code=2)[1] == "error: --watch shows a table: leave out --json, --csv and --md\n"
