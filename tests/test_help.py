"""--help of every command: plain text of at most 80 columns, whole words, and one way to show a default."""

import re

import pytest
from typer.testing import CliRunner

from dlcli.cli.main import COMMANDS, app
from tests.conftest import Dlcli
from tests.test_cli import in_terminal
from tests.test_start_up import call, heavy_after

INNER = ["runs rm", "runs restore", "runs purge", "runs show", "check resume", "check determinism", "check install"]


def helped(*words: str, columns: int = 80) -> str:
    done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": str(columns)})
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.parametrize("command", ["", *COMMANDS, *INNER])
@pytest.mark.parametrize("columns", [80, 60, 200])
def test_the_help_of_every_command_is_plain_whole_and_no_wider_than_80(command: str, columns: int) -> None:
    text = helped(*command.split(), columns=columns)
    assert text.isascii() and "\x1b" not in text
    assert max(map(len, text.splitlines())) <= min(columns, 80)
    assert "..." not in re.sub(r"\.\.\.(?=[ \]\n]|$)", "", text)  # of [RUN...] and NAME,...
    assert not re.search(r"<\w+|\[default|\[env|\[required|\[x", text)
    assert text.startswith(f"Usage: dlcli {command}".rstrip() + " [OPTIONS]")
    # The same words at any width: none is broken or cut, but for choices after a |.
    words, usual = (re.sub(r"\|\n +", "|", told).split() for told in (text, helped(*command.split())))
    assert words == usual


@pytest.mark.parametrize("command", ["", *COMMANDS, *INNER])
def test_every_option_says_what_it_takes_and_what_it_does_in_whole_sentences(command: str) -> None:
    sections = re.split(r"\n(?=\w[\w ]*:\n)", helped(*command.split()))[1:]
    for section in sections:
        title, _, body = section.partition(":\n")
        for entry in re.split(r"\n  (?=\S)", "\n" + body.rstrip("\n"))[1:]:
            name, _, about = " ".join(entry.split("\n")).partition("  ")
            about = " ".join(about.split())
            assert re.search(r"\.( \((default|environment): .*\))?$", about) or title == "Options", (name, about)
            if title not in ("Arguments", "Commands"):
                assert re.fullmatch(r"(-\w, )?--[\w-]+(, --[\w-]+)?( [\w|,.:/=\[\]-]+)?", name), name
            if "-dir " in f"{name} ":
                assert name.endswith(" PATH"), name


def test_the_help_of_a_small_command_is_this() -> None:
    assert helped("runs", "purge") == (
        "Usage: dlcli runs purge [OPTIONS] [RUN...]\n"
        "\n"
        "Delete runs in the trash for good; without RUN, all of them.\n"
        "\n"
        "Arguments:\n"
        "  [RUN...]  Runs in the trash: 42, runs/42, names, latest, best:METRIC, 40:45 or\n"
        "            4,7. May be repeated.\n"
        "\n"
        "Options:\n"
        "  -y, --yes        Delete without asking.\n"
        "  --runs-dir PATH  The folder of all runs. (default: runs; environment:\n"
        "                   DLCLI_RUNS_DIR)\n"
        "  --json           Print one JSON document.\n"
        "  --csv            Print CSV.\n"
        "  --md             Print a Markdown table.\n"
        "  -h, --help       Show this message and exit.\n"
    )


def test_a_default_that_follows_from_something_else_is_told_in_words() -> None:
    told = " ".join(helped("explain").split())
    assert "How the map of an image is made. (default: gradcam for a model with convolutions, else integrated)" in told
    for command in ("explain", "plot", "eval"):
        about = " ".join(helped(command).partition("--split train|val|test")[2].split())
        assert re.match(r"[^.]+\. \(default: test\) --", about), about


def test_a_long_name_stands_on_a_line_of_its_own() -> None:
    lines = helped("train").splitlines()
    place = lines.index("  --loss auto|mse|l1|huber|bce|cross-entropy")
    assert lines[place + 1].strip() == "Loss function; auto takes the usual one of the"
    assert "  --quiet" not in lines and any(
        line.startswith("  -q, --quiet            Show no progress.") for line in lines
    )


def test_a_terminal_gets_the_help_that_a_pipe_gets(tmp_path: "object", dlcli: Dlcli) -> None:
    piped = dlcli("runs", "--help", COLUMNS="80").stdout
    assert in_terminal(tmp_path, "runs", "--help", columns=80).replace("\r\n", "\n") == piped  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [("train", "--help"), ("runs", "--help"), ("check", "resume", "--help")])
def test_no_help_loads_rich(words: tuple[str, ...]) -> None:
    assert heavy_after(call(*words) + "\nimport sys; assert 'rich.console' not in sys.modules") == []
