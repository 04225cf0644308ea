"""README and guides are correct: the transcript is run and compared, every command and option exists."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from dlcli.cli.main import COMMANDS, app
from tests.conftest import Dlcli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {"README.md": README} | {f"docs/{p.name}": p.read_text() for p in sorted((ROOT / "docs").glob("*.md"))}


def transcript() -> list[tuple[list[str], list[str]]]:
    """The commands under "What it looks like" in the README, each with its output lines."""
    block = README.split("## What it looks like")[1].split("\n## ")[0]
    found: list[tuple[list[str], list[str]]] = []
    for line in block.splitlines():
        line = line.strip()
        if line.startswith("$ dlcli "):
            found.append((shlex.split(line)[2:], []))
        elif found and line and line != "...":
            found[-1][1].append(line)
    return found


def shape(line: str) -> str:
    """A line without its numbers, times and column widths: these differ from machine to machine."""
    line = re.sub(r"\b[\d.,]+(e-?\d+)?[smhd]?\b", "#", line)
    line = re.sub(r"# threads?$", "# threads", line)  # one core has one
    return re.sub(r"\s+(best$)?", " ", line).strip()


def test_the_transcript_is_what_the_commands_print(dlcli: Dlcli) -> None:
    commands = transcript()
    assert [words[0] for words, _ in commands] == ["train", "eval", "train", "runs", "train"]
    for words, lines in commands:
        done = dlcli(*words, check=None)
        assert done.returncode == (2 if lines[0].startswith("error: ") else 0), done.stderr
        printed = {shape(line) for line in (done.stdout + "\n" + done.stderr).splitlines()}
        assert [line for line in lines if shape(line) not in printed] == [], words


def test_every_command_is_documented() -> None:
    for name in COMMANDS:
        assert f"dlcli {name}" in README, name


def test_a_newcomer_reads_it_in_three_minutes() -> None:
    assert len(README.split()) < 700


def test_every_guide_is_linked_and_every_link_leads_somewhere() -> None:
    guides = set(re.findall(r"\((docs/[\w-]+\.md)\)", README)) | {"docs/benchmarks.md", "docs/performance-log.md"}
    assert guides == PAGES.keys() - {"README.md"}
    for name, text in PAGES.items():
        for link, _, section in re.findall(r"\]\(([\w./-]+\.\w+)(#([\w-]+))?\)", text):
            target = (ROOT / name).parent / link
            assert target.exists(), f"{name} links {link}"
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert not section or section in {h.lower().replace(" ", "-") for h in headings}, f"{name} links {section}"


def test_the_example_model_works(dlcli: Dlcli, tmp_path: Path) -> None:
    code = README.split("    # mine.py\n")[1].split("\n    $ dlcli ")[0]
    (tmp_path / "mine.py").write_text("\n".join(line.removeprefix("    ") for line in code.splitlines()))
    command = re.search(r"\$ dlcli (train mine:Net .*)", README)
    assert command is not None
    dlcli(*shlex.split(command[1]), "--epochs", "1")
    assert json.loads(dlcli("eval", "latest", "--json").stdout)["samples"] == 359
    example = README.split("In Python:\n")[1].split("\n## ")[0]
    code = "\n".join(line.removeprefix("    ") for line in example.splitlines())
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 10, done.stderr
    assert json.loads(dlcli("eval", "latest", "--json").stdout)["samples"] == 200
    dlcli("runs", "rm", "2")
    (tmp_path / "new.csv").write_text("\n".join([",".join(["0"] * 64)] * 3) + "\n")
    assert len(json.loads(dlcli("predict", "latest", "new.csv", "--json").stdout)) == 3
    exported = dlcli("export", "latest", "--format", "safetensors", "--json")
    assert (tmp_path / "runs" / "1" / "export").is_dir(), exported.stdout
    for words in (("--data", "iris", "--set", "width=5"), ("--input", "3,1,2,2", "--set", "width=5")):
        assert json.loads(dlcli("gradcheck", "mine:Net", *words, "--json").stdout)["verdict"] == "pass"


# ---------------------------------------------------------------- every command and option that a page shows exists

# Options of other programs: parts of `make bench`.
OTHERS = {
    "--only", "--rounds", "--save", "--logdir", "--nnodes", "--nproc-per-node", "--rdzv-backend", "--rdzv-endpoint",
    "--rdzv-id", "--standalone", "--ntasks-per-node", "--requeue",
}  # fmt: skip


def code(page: str) -> list[str]:
    """The lines of code blocks in a page, except Python, and its inline code."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page, re.M | re.S)
    fenced = [block for language, block in blocks if language != "python"]
    rest = re.sub(r"^```\w*\n.*?^```", "", page, flags=re.M | re.S)
    indented = re.findall(r"^    +(?:\$ )?(.*)$", rest, re.M)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest)]
    return [line for block in fenced for line in block.splitlines()] + indented + spans


def commands(page: str) -> list[list[str]]:
    """The words after `dlcli` of each command in a page, up to a shell operator."""
    found = [re.search(r"(?:^|\$\(|\s)dlcli (?!import )([a-z-].*)", line) for line in code(page)]
    cut = [re.split(r"\)$|\s(?:\|\||\||#|\.\.\.)(?:\s|$)", match[1])[0] for match in found if match]
    return [shlex.split(text.replace("'", '"') if text.count("'") % 2 else text) for text in cut]


def what_is_wrong(words: list[str]) -> str | None:
    """The first word of a command that the real command line does not recognise."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("dlcli", [], resilient_parsing=True)
    waiting = iter(words)
    for word in waiting:
        option, equals, _ = word.partition("=")
        if word.startswith("-") and command.name == "tag" and not word.startswith("--"):
            continue  # a tag to remove
        if option.startswith("-") and option != "-":
            known = options(command, context)
            if option not in known:
                return option
            if known[option] and not equals:
                next(waiting, None)
        elif hasattr(command, "get_command"):
            inner = command.get_command(context, word)
            if inner is None and any(param.param_type_name == "argument" for param in command.params):
                continue  # `dlcli sweep MODEL`
            command = inner
            if command is None:
                return word
    return None


def options(command: Any, context: Any) -> dict[str, bool]:
    """The options of a command, and whether each takes a value."""
    params = [param for param in command.get_params(context) if param.param_type_name == "option"]
    return {name: not param.is_flag for param in params for name in (*param.opts, *param.secondary_opts)}


@pytest.mark.parametrize("name", PAGES)
def test_every_command_that_a_page_shows_exists(name: str) -> None:
    assert {" ".join(words): wrong for words in commands(PAGES[name]) if (wrong := what_is_wrong(words))} == {}


@pytest.mark.parametrize("name", PAGES)
def test_every_option_that_a_page_names_exists(name: str) -> None:
    group: Any = typer.main.get_command(app)
    context = group.make_context("dlcli", [], resilient_parsing=True)
    waiting, known = [group], set(OTHERS)
    for command in waiting:
        known |= options(command, context).keys()
        if hasattr(command, "list_commands"):
            waiting += [command.get_command(context, inner) for inner in command.list_commands(context)]
    named = {option for line in code(PAGES[name]) for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", line)}
    assert named - known == set()


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("train cnn --lr 0.1", None),
        ("runs show 42 --json", None),
        ("check resume cnn --kills 5", None),
        ("--debug train ccnn", None),
        ("runs --limit 10", None),
        ("runs --limit 10 tell", "tell"),
        ("trian cnn", "trian"),
        ("train cnn --learning-rate 0.1", "--learning-rate"),
        ("runs tell 42", "tell"),
        ("runs show 42 --yes", "--yes"),
        ("check speed cnn", "speed"),
    ],
)
def test_a_wrong_command_is_seen(words: str, wrong: str | None) -> None:
    assert what_is_wrong(shlex.split(words)) == wrong
