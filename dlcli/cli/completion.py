"""Completion of commands, options and values in bash, zsh and fish.

A shell asks at every tab, so nothing is imported that is not needed: the words of the command line are in words.json,
which tests compare with the commands themselves (`python -m tests.make_words` writes it).
"""

import contextlib
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from dlcli.core.errors import ConfigError, DlcliError, ResourceError

ASKED = "_DLCLI_COMPLETE"  # a shell sets it to its name, and gives the line up to the cursor as the argument

_MOST = 1000  # runs whose numbers and names are offered, the newest

_SCRIPTS = {
    "bash": f"""_dlcli() {{
  local IFS=$'\\n'
  COMPREPLY=($({ASKED}=bash dlcli "${{COMP_LINE:0:$COMP_POINT}}" 2>/dev/null))
}}
complete -o nosort -o default -F _dlcli dlcli
""",
    "zsh": f"""#compdef dlcli
_dlcli() {{
  local -a found
  found=("${{(@f)$({ASKED}=zsh dlcli "${{LBUFFER}}" 2>/dev/null)}}")
  if [[ -n "$found[1]" ]]; then compadd -Q -S '' -- $found; else _files; fi
}}
(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit }}
compdef _dlcli dlcli
""",
    "fish": f"""complete -c dlcli -a '({ASKED}=fish dlcli (commandline -cp) 2>/dev/null)'
""",
}


def answer(line: str, shell: str) -> list[str]:
    """What may follow a line, whole words. bash breaks words at : and =, and gets only what comes after these."""
    words, current = _split(line)
    with contextlib.suppress(DlcliError, OSError):
        found = [word for word in _offered(words[1:], current) if word.startswith(current)]
        cut = max(current.rfind(":"), current.rfind("=")) + 1 if shell == "bash" else 0
        return [word[cut:] for word in found]
    return []


def _split(line: str) -> tuple[list[str], str]:
    """The words before the one at the cursor, and that one so far."""
    try:
        words = shlex.split(line)
    except ValueError:  # a quotation that is still open
        words = line.split()
    return (words, "") if not line or line[-1].isspace() else (words[:-1], words[-1])


def _offered(words: list[str], current: str) -> list[str]:
    known: dict[str, Any] = json.loads((Path(__file__).parent / "words.json").read_text())
    if not words:
        return [*known["commands"], *known["options"]] if current.startswith("-") else list(known["commands"])
    if words[0] not in known["commands"]:
        return []
    command, given = known["commands"][words[0]], words[1:]
    inner = command.get("commands", {})
    if given and given[0] in inner:
        command, given, inner = inner[given[0]], given[1:], {}
    before = given[-1] if given else ""
    if "=" in current and current.startswith("--"):
        option, _, _ = current.partition("=")
        return [f"{option}={value}" for value in _values(command["options"].get(option, ""), words)]
    if kind := command["options"].get(before):
        return _values(kind, words)
    if current.startswith("--") or (current == "-" and not command["arguments"].endswith("-TAG")):
        return list(command["options"])
    return [*inner, *_values(command["arguments"], words)]


def _values(kind: str, words: list[str]) -> list[str]:
    """kind: the metavariable of an option or argument; choices such as best|last are offered themselves."""
    if "|" in kind:
        return [word for word in kind.split("|") if word == word.lower()]
    if kind in ("MODEL", "DATA"):
        from dlcli.config.registry import DATASETS, MODELS

        if kind == "DATA":
            return [name + ":" * bool(entry.file) for name, entry in DATASETS.items()]
        from dlcli.core.zoo import zoo

        return [*MODELS, *zoo()]
    root = _after("--runs-dir", words) or os.environ.get("DLCLI_RUNS_DIR") or "runs"
    if kind in ("RUN", "RUN...", "RUNS"):
        return _runs(root)
    if kind in ("TAG", "RUN... +TAG -TAG"):
        tags = sorted({tag for run in _newest(root) for tag in _tags(run)})
        return tags if kind == "TAG" else [*_runs(root), *(sign + tag for sign in "+-" for tag in tags)]
    if kind == "METRIC":
        return _metrics(root)
    if kind == "DEVICE":
        return ["auto", "cpu", "cuda", "mps"]
    return []


def _after(option: str, words: list[str]) -> str:
    """The value of an option on the line."""
    for place, word in enumerate(words):
        if word == option and place + 1 < len(words):
            return words[place + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return ""


def _newest(root: str) -> list[Any]:
    from dlcli.runs.run import all_runs

    return all_runs(root)[:_MOST]


def _tags(run: Any) -> list[str]:
    from dlcli.runs.tags import tags_of

    return tags_of(run)


def _runs(root: str) -> list[str]:
    from dlcli.runs.given_names import name_of

    runs = _newest(root)
    names = [name for run in runs if (name := name_of(run)) is not None]
    best = [f"best:{metric.removeprefix('val/')}" for metric in _metrics(root) if metric.startswith("val/")]
    return [*(str(run.number) for run in runs), *names, *(["latest"] if runs else []), *best]


def _metrics(root: str) -> list[str]:
    """Of the newest runs."""
    found: dict[str, None] = {}
    for run in _newest(root)[:20]:
        with contextlib.suppress(DlcliError):
            found |= dict.fromkeys(name for name in run.info().get("metrics", {}) if "/" in name)
    return list(found)


def script(shell: str) -> str:
    """ConfigError (exit 2) for a shell that we have none for."""
    if shell not in _SCRIPTS:
        raise ConfigError(f"completion is for {', '.join(_SCRIPTS)}, not for {shell or 'this shell'}: name one of them")
    return _SCRIPTS[shell]


def install(shell: str) -> list[Path]:
    """Write the script of a shell into the user's home, and let the shell read it. Returns the files that changed."""
    content, home = script(shell), Path.home()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    try:
        if shell == "fish":
            return [_written(config / "fish" / "completions" / "dlcli.fish", content)]
        data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
        file = _written(data / "dlcli" / f"completion.{shell}", content)
        start = Path(os.environ.get("ZDOTDIR") or home) / ".zshrc" if shell == "zsh" else home / ".bashrc"
        line = f"source {shlex.quote(str(file))}  # completion of dlcli\n"
        before = start.read_text() if start.exists() else ""
        if line in before:
            return [file]
        with open(start, "a") as startup:
            startup.write(("" if before.endswith("\n") or not before else "\n") + line)
        return [file, start]
    except OSError as error:
        raise ResourceError(f"cannot write {error.filename}: {error.strerror}") from None


def _written(file: Path, content: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def complete() -> None:
    """The whole process, when a shell asks."""
    found = answer(" ".join(sys.argv[1:]), os.environ[ASKED])
    sys.stdout.write("".join(f"{word}\n" for word in found if word.isprintable()))
