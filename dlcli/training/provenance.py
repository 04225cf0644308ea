"""What run.json says of where and how a run was made."""

import os
import platform
import socket
import subprocess
import sys
from typing import Any

import torch

import dlcli
from dlcli.experiment import Experiment
from dlcli.runs import now

# What decides, beside the settings, how every sum is rounded: name in run.json -> how a person calls it.
_MACHINERY = {"device": "device", "threads": "threads", "torch": "torch", "dlcli": "dlcli", "fingerprint": "data"}

# Settings that say how long to train and what to write, not what a step computes.
_HARMLESS = ("epochs", "patience", "log_every", "data_dir", "device", "threads", "checkpoint_every")


def describe(built: Experiment, command: str) -> dict[str, Any]:
    """run.json of a run that starts now."""
    config, device = built.config, built.device
    return {
        "status": "running",
        "model": config.model,
        "data": config.data,
        "epochs": config.epochs,
        "epochs_done": 0,
        "step": 0,
        "steps": config.epochs * built.steps_per_epoch,
        "metrics": {},
        "best": None,
        "stop": None,
        "started": now(),
        "ended": None,
        "seconds": None,
        "device": f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type,
        "threads": built.threads,
        "parameters": sum(p.numel() for p in built.model.parameters()),
        "flops_per_step": built.flops_per_step,
        "train_samples": len(built.dataset.train),
        "val_samples": len(built.dataset.val or ()),
        "test_samples": len(built.dataset.test or ()),
        "fingerprint": built.dataset.fingerprint,
        "command": command,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "dlcli": dlcli.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "platform": sys.platform,
        **_git(),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Why a resume would not be bit for bit the run that never stopped; empty when it would be.

    before, after: run.json of the run, and of the one that is about to go on; each with `config`, its settings
    as a flat dict.
    """
    found = []
    for name, word in _MACHINERY.items():
        if before.get(name) != after[name]:
            found.append("data changed" if word == "data" else f"{word} {before.get(name)} -> {after[name]}")
    old, new = before["config"], after["config"]
    for name in sorted(old.keys() | new.keys()):
        harmless = name in _HARMLESS or (name == "warmup_epochs" and new.get("schedule") == "constant")
        if old.get(name) != new.get(name) and not harmless:
            found.append(f"{name} {old.get(name)} -> {new.get(name)}")
    stretched = new.get("schedule") in ("cosine", "one-cycle") and old.get("epochs") != new.get("epochs")
    if stretched:
        found.append(f"schedule {new['schedule']} stretched from {old.get('epochs')} to {new['epochs']} epochs")
    return found


def _git() -> dict[str, Any]:
    """Commit of the folder in which the command was given, and whether it had changes."""
    try:
        commit = _ask_git("rev-parse", "HEAD")
        if _runs_programs():
            return {"git_commit": commit, "git_dirty": None}
        status = _ask_git("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
        return {"git_commit": commit, "git_dirty": bool(status)}
    except (OSError, subprocess.SubprocessError):
        return {"git_commit": None, "git_dirty": None}


def _runs_programs() -> bool:
    """Whether the repository itself, which may be a stranger's, names programs that `git status` would start."""
    listed = _ask_git("config", "--list", "--name-only", "--show-scope").splitlines()
    settings = (line.split(None, 1) for line in listed if line.startswith(("local", "worktree")))
    return any(name.startswith("filter.") for _, name in settings)


def _ask_git(*words: str) -> str:
    """No program of the repository's own is started but the filters, see `_runs_programs`."""
    quiet = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
    done = subprocess.run(["git", *quiet, *words], capture_output=True, text=True, timeout=5, check=True)
    return done.stdout.strip()
