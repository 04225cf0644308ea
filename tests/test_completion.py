"""Completion at the tab key: which words, in which shell, at which cost; and its installation."""

import json
import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dlcli.cli.completion import answer, script
from dlcli.cli.main import app
from dlcli.config.registry import MODELS
from dlcli.core.zoo import zoo
from dlcli.runs import given_names
from tests.make_words import FILE, words
from tests.test_compare import make
from tests.test_where import call


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run 1 with two tags, run 2 with a name; another folder with run 1 only."""
    monkeypatch.chdir(tmp_path)
    root = Path("runs")
    make(root, 0.9, seed=0, info={"metrics": {"train/loss": 0.2, "val/loss": 0.1, "val/accuracy": 0.9}})
    call("tag", "1", "+good", "+new")
    run = make(root, 0.9, seed=1)
    (run.path / "name.txt").write_text("digits-1\n")
    assert given_names.name_of(run) == "digits-1"
    make(Path("other"), 0.8, seed=2)
    return root


def test_the_words_are_those_of_the_commands() -> None:
    assert json.loads(FILE.read_text()) == words(), "run python -m tests.make_words"


RUNS = ["2", "1", "digits-1", "latest", "best:loss", "best:accuracy"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("dlcli ev", ["eval"]),
        ("dlcli --ver", ["--version"]),
        ("dlcli nonsense ", []),
        ("dlcli train ", [*MODELS, *zoo()]),
        ("dlcli train resnext50", ["resnext50_32x4d"]),
        ("dlcli train lin", ["linear"]),
        ("dlcli train cnn --data fash", ["fashion-mnist"]),
        ("dlcli train cnn --data tab", ["table:"]),
        ("dlcli train cnn --optimizer=ad", ["--optimizer=adam", "--optimizer=adamw"]),
        ("dlcli train cnn --class-weights ", ["balanced", "none"]),
        ("dlcli train cnn --weight-", ["--weight-decay"]),
        ("dlcli train cnn --quiet --seed ", []),
        ("dlcli eval ", RUNS),
        ("dlcli eval best:a", ["best:accuracy"]),
        ("dlcli eval 1 --checkpoint ", ["best", "last"]),
        ("dlcli eval --runs-dir other ", ["1", "latest"]),
        ("dlcli eval --runs-dir=other ", ["1", "latest"]),
        ("dlcli runs comp", ["compare"]),
        ("dlcli runs rm d", ["digits-1"]),
        ("dlcli runs --tag ", ["good", "new"]),
        ("dlcli runs tag 2 +", ["+good", "+new"]),
        ("dlcli runs tag 1 -n", ["-new"]),
        ("dlcli runs tag 1 --r", ["--runs-dir"]),
        ("dlcli runs --sort val/", ["val/loss", "val/accuracy"]),
        ("dlcli runs compare 1 --metric ", ["train/loss", "val/loss", "val/accuracy"]),
    ],
)
def test_what_may_follow(root: Path, line: str, expected: list[str]) -> None:
    assert answer(line, "zsh") == expected


def test_options_of_a_subcommand_are_its_own(root: Path) -> None:
    found = answer("dlcli runs compare -", "zsh")
    assert "--group-by" in found and "--watch" not in found and "--watch" in answer("dlcli runs -", "zsh")


def test_bash_gets_what_follows_the_signs_at_which_it_breaks_words(root: Path) -> None:
    assert answer("dlcli eval best:a", "bash") == ["accuracy"]
    assert answer("dlcli train cnn --optimizer=ad", "bash") == ["adam", "adamw"]
    assert answer("dlcli train cnn --data ta", "bash") == ["table:"]


def test_nothing_is_offered_that_could_control_a_terminal_or_fails(root: Path) -> None:
    (root / "1/run.json").write_text("{")
    (root / "1/tags.txt").write_text("\033[31mred\n")
    assert answer("dlcli eval ", "zsh") == ["2", "1", "digits-1", "latest"]
    assert answer("dlcli runs --tag ", "zsh") == []
    assert answer("dlcli eval --runs-dir /dev/null/x ", "zsh") == []


def test_bash_completes(root: Path, tmp_path: Path) -> None:
    """The script itself, as bash calls it."""
    (tmp_path / "dlcli").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dlcli "$@"\n')
    (tmp_path / "dlcli").chmod(0o755)
    (tmp_path / "completion.bash").write_text(script("bash"))
    line = "dlcli eval dig"
    program = (
        f"source ./completion.bash; complete -p dlcli; COMP_LINE='{line} more'; COMP_POINT={len(line)}; _dlcli; "
        'printf "%s|" "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.stdout, done.stderr) == ("complete -o default -o nosort -F _dlcli dlcli\ndigits-1|", "")


def _command(folder: Path) -> dict[str, str]:
    """`dlcli` on the path, and the environment in which it is found."""
    (folder / "dlcli").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dlcli "$@"\n')
    (folder / "dlcli").chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder), "TERM": "dumb"}


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("dlcli eval dig", ["digits-1"]),
        ("dlcli eval best:a", ["best:accuracy"]),
        ("dlcli runs tag 1 +", ["+good", "+new"]),
    ],
)
def test_fish_completes(root: Path, tmp_path: Path, line: str, expected: list[str]) -> None:
    """The script itself, as fish loads it when it is installed."""
    environment = _command(tmp_path)
    (tmp_path / "completion.fish").write_text(script("fish"))
    program = f"source ./completion.fish; complete -C {shlex.quote(line)}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", program], capture_output=True, text=True, env=environment, timeout=60
    )
    assert (done.stdout.split(), done.stderr) == (expected, "")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(
    ("line", "expected"),
    [("dlcli eval dig", "dlcli eval digits-1"), ("dlcli eval best:a", "dlcli eval best:accuracy"),
     ("dlcli train cnn --optimizer=adamw", "dlcli train cnn --optimizer=adamw")],
)  # fmt: skip
def test_zsh_completes(root: Path, tmp_path: Path, line: str, expected: str) -> None:
    """At the tab key of an interactive zsh, which then prints the line instead of running it."""
    environment = _command(tmp_path) | {"ZDOTDIR": str(tmp_path), "PS1": "> "}
    (tmp_path / "completion.zsh").write_text(script("zsh"))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["zsh", "-f", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    try:
        shown = ""
        for typed, awaited in (
            ("autoload -Uz compinit && compinit -u; source ./completion.zsh; print -- read''y\n", "ready"),
            ("told() { print -r -- \"<$BUFFER>\" > line.txt; print don''e }; zle -N told; bindkey '^X' told; "
             "print -- boun''d\n", "bound"),
            (f"{line}\t\x18", "done"),
        ):  # fmt: skip
            os.write(ours, typed.encode())
            until = time.monotonic() + 60
            while awaited not in shown and time.monotonic() < until:
                if select.select([ours], [], [], 1)[0]:
                    shown += os.read(ours, 4096).decode(errors="replace")
            assert awaited in shown, shown
            shown = ""
        assert (tmp_path / "line.txt").read_text() == f"<{expected}>\n"
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_neither_torch_nor_the_command_line_is_imported(root: Path) -> None:
    program = (
        "import sys, runpy; sys.argv = ['dlcli', 'dlcli eval ']; runpy.run_module('dlcli', run_name='__main__'); "
        "print(sorted(m for m in ('torch', 'numpy', 'pandas', 'typer', 'rich', 'pydantic') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
        env={**os.environ, "_DLCLI_COMPLETE": "zsh"},
    )  # fmt: skip
    assert done.stdout.split() == [*RUNS, "[]"] and done.stderr == ""


def invoked(*words: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code
    return result.stdout, result.stderr


def test_it_is_installed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/bash")
    (tmp_path / ".bashrc").write_text("alias x=y")
    file = tmp_path / ".local/share/dlcli/completion.bash"
    assert invoked("--install-completion", "auto")[1] == (
        f"completion for bash is in {file} and {tmp_path}/.bashrc: it works in the next shell\n"
    )
    assert invoked("--install-completion", "bash")[1] == (
        f"completion for bash is in {file}: it works in the next shell\n"
    )
    assert (tmp_path / ".bashrc").read_text() == f"alias x=y\nsource {file}  # completion of dlcli\n"
    assert file.read_text() == script("bash") == invoked("--show-completion", "bash")[0]
    invoked("--install-completion", "zsh")
    assert (tmp_path / ".zshrc").read_text().startswith("source ")
    invoked("--install-completion", "fish")
    assert (tmp_path / ".config/fish/completions/dlcli.fish").read_text() == script("fish")


def test_another_shell_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert invoked("--install-completion", "auto", code=2)[1] == (
        "error: completion is for bash, zsh, fish, not for tcsh: name one of them\n"
    )
