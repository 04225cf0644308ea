"""What run.json records about where and how a run was trained."""

import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import torch

from dlcli.compute.processor import processor
from dlcli.compute.ranks import launch_key
from dlcli.core.version import __version__
from dlcli.experiment.build import Experiment
from dlcli.runs.run import now

# What decides, besides the settings, how every sum is rounded: name in run.json -> name in messages.
_MACHINERY = {
    "device": "device", "cpu": "cpu", "cpu_capability": "cpu capability", "threads": "threads",
    "eval_threads": "evaluation threads", "torch": "torch", "dlcli": "dlcli", "environment": "environment",
    "fingerprint": "data",
}  # fmt: skip

# Settings that decide how long to train and what to write, but not what a step computes.
_HARMLESS = (
    "epochs",
    "steps",
    "patience",
    "log",
    "log_weights",
    "log_every",
    "data_dir",
    "device",
    "threads",
    "processes",
    "rank_timeout",
    "checkpoint_every",
    "keep_last",
    "data.storage",
    "data.workers",
)

# The only environment variables that are recorded: those that decide which kernels compute.
_ENVIRONMENT = (
    "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES", "DNNL_MAX_CPU_ISA", "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA",
)  # fmt: skip


_STATUS = ("status", "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules=all")
_COMMIT = "# branch.oid "


def describe(built: Experiment, command: str, repository: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content of run.json for a run that starts now. repository: what `ask_git` says, if it is known already."""
    config, device = built.config, built.device
    return {
        "status": "running",
        "model": config.model,
        "data": config.data,
        "epochs": config.epochs or -(-built.total_steps // built.steps_per_epoch),
        "epochs_done": 0,
        "step": 0,
        "steps": built.total_steps,
        "metrics": {},
        "best": None,
        "stop": None,
        "started": now(),
        "ended": None,
        "seconds": None,
        "device": f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type,
        "cpu": processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "processes": built.ranks.size,
        "threads": built.threads,
        "eval_threads": built.eval_threads,
        "parameters": sum(p.numel() for p in built.model.parameters()),
        "trained_parameters": built.trained_parameters,
        "flops_per_step": built.flops_per_step,
        "train_samples": len(built.dataset.train),
        "val_samples": len(built.dataset.val or ()),
        "test_samples": len(built.dataset.test or ()),
        "fingerprint": built.dataset.fingerprint,
        "teacher": None if built.teacher is None else built.teacher.identity,
        **({"launch": key} if (key := launch_key()) else {}),
        "command": command,
        "host": socket.gethostname(),
        "pid": built.ranks.launcher or os.getpid(),
        "dlcli": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "platform": sys.platform,
        **({} if built.start is None else {"weights": built.start.as_dict()}),
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        **(ask_git() if repository is None else repository),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Why a resumed run would not be bit for bit equal to one that never stopped; empty if it would be.

    before, after: run.json before and after the resume, each with `config`, the settings as a flat dict.
    """
    found = []
    if (earlier := before.get("processes", 1)) != after["processes"]:
        found.append(f"{earlier} process{'es' * (earlier != 1)} before, {after['processes']} now")
    for name, word in _MACHINERY.items():
        if before.get(name) != after[name]:
            told = f"{word} {before.get(name, 'unknown')} -> {after[name]}"
            found.append("data changed" if word == "data" else told)
    old, new = before["config"], after["config"]
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name) and name not in _HARMLESS:
            found.append(f"{name} {old.get(name)} -> {new.get(name)}")
    if old.get("teacher") == new.get("teacher") and _weights_of(before) != _weights_of(after):
        found.append("teacher changed")
    schedule = new.get("schedule")
    stretches = schedule in ("cosine", "one-cycle") or (schedule == "step" and new.get("step_epochs") is None)
    if stretches and _length(old) != _length(new):
        found.append(f"schedule {schedule} stretched from {_length(old)} to {_length(new)}")
    if str(after.get("device")).startswith("cuda") and not new.get("deterministic"):
        found.append("cuda without deterministic")
    return found


def _weights_of(info: dict[str, Any]) -> str | None:
    """The sha256 of the teacher's weights."""
    return (info.get("teacher") or {}).get("sha256")


def _length(settings: dict[str, Any]) -> str:
    """The length of a training with these settings, in words."""
    steps, epochs = settings.get("steps"), settings.get("epochs")
    return f"{epochs} epochs" if steps is None else f"{steps} steps"


def ask_git() -> dict[str, Any]:
    """Commit of the repository in the current folder, whether it has uncommitted changes, and its remote.

    In two calls of git, and not in one for each, since each takes 5 ms.
    """
    settings = _git_settings()
    status = None if _names_programs(settings) else _ask_git(*_STATUS)
    lines = (status or "").splitlines()
    commit = next((line.removeprefix(_COMMIT) for line in lines if line.startswith(_COMMIT)), None)
    return {
        "git_commit": _ask_git("rev-parse", "HEAD") if status is None else None if commit == "(initial)" else commit,
        "git_dirty": None if status is None else any(not line.startswith("#") for line in lines),
        "git_remote": without_user(settings.get(("local", "remote.origin.url"), "")) or None,
    }


def without_user(url: str) -> str:
    """`https://name:token@host/path?key` as `https://host/path`; a name before `@` may be a secret."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url.rpartition("@")[2]
    host, slash, path = rest.partition("/")
    return scheme + separator + host.rpartition("@")[2] + slash + re.split("[?#]", path)[0]


def _git_settings() -> dict[tuple[str, str], str]:
    """The last value of each setting of git, by its scope and its name."""
    words = iter((_ask_git("config", "--list", "--show-scope", "--null") or "").split("\0"))
    found = {}
    for scope, setting in zip(words, words, strict=False):
        name, _, value = setting.partition("\n")
        found[scope, name] = value
    return found


def _names_programs(settings: Mapping[tuple[str, str], str]) -> bool:
    """Whether the configuration of the repository, which may be untrusted, names programs that `git status` would
    start."""
    return any(scope in ("local", "worktree") and name.startswith("filter.") for scope, name in settings)


def _ask_git(*words: str) -> str | None:
    """The output of a git command, None if it fails. Hooks and monitors that the repository configures are not started;
    for filters see `_names_programs`."""
    quiet = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
    try:
        done = subprocess.run(["git", *quiet, *words], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
