"""The README cannot lie: its transcript is run and compared, its table names every command."""

import json
import re
import shlex
from pathlib import Path

from dlcli.cli.main import COMMANDS
from tests.conftest import Dlcli

README = (Path(__file__).parent.parent / "README.md").read_text()


def transcript() -> list[tuple[list[str], list[str]]]:
    """The README's commands under "What it looks like", each with the lines that it shows."""
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


def test_every_guide_is_linked_and_names_commands_that_exist() -> None:
    root = Path(__file__).parent.parent
    pages = {"README.md": README} | {f"docs/{p.name}": p.read_text() for p in (root / "docs").glob("*.md")}
    guides = set(re.findall(r"\((docs/[\w-]+\.md)\)", README)) | {"docs/benchmarks.md", "docs/performance-log.md"}
    assert guides == pages.keys() - {"README.md"}
    for name, text in pages.items():
        for link in re.findall(r"\]\(([\w./-]+\.md)\)", text):
            assert (root / name).parent.joinpath(link).exists(), f"{name} links {link}"
        named = set(re.findall(r"(?:`|\$ |^    |\()dlcli ([a-z]+)", text, re.M))
        assert named <= set(COMMANDS), f"{name} names {named - set(COMMANDS)}"


def test_the_example_model_works(dlcli: Dlcli, tmp_path: Path) -> None:
    code = README.split("    # mine.py\n")[1].split("\n    $ dlcli ")[0]
    (tmp_path / "mine.py").write_text("\n".join(line.removeprefix("    ") for line in code.splitlines()))
    command = re.search(r"\$ dlcli (train mine:Net .*)", README)
    assert command is not None
    dlcli(*shlex.split(command[1]), "--epochs", "1")
    assert json.loads(dlcli("eval", "latest", "--json").stdout)["samples"] == 359
    (tmp_path / "new.csv").write_text("\n".join([",".join(["0"] * 64)] * 3) + "\n")
    assert len(json.loads(dlcli("predict", "latest", "new.csv", "--json").stdout)) == 3
    exported = dlcli("export", "latest", "--format", "safetensors", "--json")
    assert (tmp_path / "runs" / "1" / "export").is_dir(), exported.stdout
    for words in (("--data", "iris", "--set", "width=5"), ("--input", "3,1,2,2", "--set", "width=5")):
        assert json.loads(dlcli("gradcheck", "mine:Net", *words, "--json").stdout)["verdict"] == "pass"
