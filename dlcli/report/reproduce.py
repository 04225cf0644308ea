"""How to train the same again, and what proves that it is the same."""

import os
import shlex

from dlcli.config.toml import to_toml
from dlcli.core.errors import DlcliError
from dlcli.core.files import read_manifest
from dlcli.core.wording import plain
from dlcli.report.blocks import Block, Code, Fold, Section, Text, pairs
from dlcli.report.facts import Facts

_WEIGHTS = "model.safetensors"


def reproduce(one: Facts) -> Section:
    info = one.info
    blocks: list[Block] = []
    typed = [info.get("command"), *(resume.get("command") for resume in info.get("resumes") or [])]
    commands = [plain(command) for command in typed if isinstance(command, str) and command]
    if commands:
        blocks.append(Code("Command" if len(commands) == 1 else "Commands, one after the other", "\n".join(commands)))
    pruning = _pruning(one)
    if pruning:
        blocks.append(Code("What cuts the network of the other run, and trains it", pruning))
    file = "All settings" if pruning else "All settings as a file for dlcli train --config"
    try:
        blocks.append(Fold(file, [Code("config.toml", to_toml(one.run.config()))]))
    except DlcliError as error:
        blocks.append(Text(f"The settings cannot be written as a file: {error}."))
    commit = info.get("git_commit")
    blocks += pairs(
        "What must be the same",
        {
            "seed": one.settings.get("seed"),
            "dlcli": info.get("dlcli"),
            "PyTorch": info.get("torch"),
            "git commit of the folder": commit,
            "git remote": info.get("git_remote"),
            "uncommitted changes": info.get("git_dirty") if commit else None,
            "fingerprint of the data": one.data.get("fingerprint") or info.get("fingerprint"),
            "sha256 of the best weights": _weights(one),
        },
    )
    return Section("Reproduce", blocks)


def _pruning(one: Facts) -> str:
    """The command that prunes the parent as this run is pruned; empty for another run. `dlcli train` cannot: it takes a
    network as it is."""
    found = one.info.get("pruning")
    if not isinstance(found, dict) or not isinstance(found.get("parent"), dict):
        return ""
    share = "flops" if found.get("flops") is not None else "amount"
    words = ["dlcli", "prune", str(found["parent"].get("run")), f"--{share}", str(found.get(share))]
    words += ["--structured"] if found.get("kind") == "structured" else []
    words += ["--by", str(found.get("by"))]
    if found.get("trained"):
        words += ["--epochs", str(one.settings.get("epochs")), "--lr", str(one.settings.get("lr"))]
    else:
        words += ["--epochs", "0"]
    return plain(shlex.join(words))


def _weights(one: Facts) -> str | None:
    """Of the best checkpoint, as its manifest records it; None if there is none, or it is damaged."""
    step = (one.info.get("best") or {}).get("step")
    folder = one.run.checkpoints / f"best-{step}"
    if one.run.checkpoints.is_symlink() or not os.path.isdir(folder):
        return None
    try:
        return read_manifest(folder).get(_WEIGHTS)
    except DlcliError:
        return None
