"""Where a training ran."""

from dlcli.report.blocks import Section, pairs
from dlcli.report.facts import Facts

_NAMES = {
    "device": "device", "cpu": "processor", "cpu_capability": "instructions", "threads": "threads",
    "eval_threads": "threads of evaluation", "platform": "platform", "python": "Python", "torch": "PyTorch",
    "cuda": "CUDA of PyTorch", "dlcli": "dlcli", "started": "started", "ended": "ended",
}  # fmt: skip


def environment(one: Facts) -> Section:
    """Without the names of the machine and of its user."""
    variables = one.info.get("environment")
    named = {f"${name}": value for name, value in variables.items()} if isinstance(variables, dict) else {}
    return Section(
        "Environment", pairs("Machine and versions", {t: one.info.get(n) for n, t in _NAMES.items()} | named)
    )
