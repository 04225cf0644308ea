"""How it was trained: settings that differ from the defaults first, the others folded."""

from typing import Any

from dlcli.config.layers import DERIVED, GROUPS, flatten
from dlcli.config.settings import TrainConfig
from dlcli.core.errors import ConfigError
from dlcli.report.blocks import Block, Fold, Section, Table, Text, chosen
from dlcli.report.facts import Facts

# They have a place of their own in the report.
_ELSEWHERE = ("model", "data", "format", "given")

# Where and how often something is written: not how the model was trained.
_HARMLESS = ("data_dir", "log", "log_every", "checkpoint_every", "keep_last")


def settings(one: Facts) -> Section:
    stored = {name: value for name, value in one.settings.items() if name not in _ELSEWHERE}
    if not stored:
        return Section("Settings", [])
    usual = _defaults(one.settings)
    changed = [name for name in stored if _differs(name, stored, usual, one.given)]
    rest = [name for name in stored if name not in changed]
    blocks: list[Block] = [Text("All settings are those that the model and the data have by default.")]
    if changed:
        rows = [[name, chosen(stored[name]), chosen(usual.get(name, ""))] for name in changed]
        blocks = [Table("settings that differ from the defaults of this model and data", _HEADER, rows, sortable=False)]
    if rest:
        table = Table(
            "all other settings", _HEADER[:2], [[name, chosen(stored[name])] for name in rest], sortable=False
        )
        blocks.append(Fold("All other settings", [table]))
    return Section("Settings", blocks)


_HEADER = ["setting", "value", "default"]


def _defaults(stored: dict[str, Any]) -> dict[str, Any]:
    """What this version takes for a training of the same model and data; nothing if it does not know them. Options of
    model and data are not among them: they are defined in the code of either."""
    try:
        return flatten(TrainConfig(model=stored.get("model", ""), data=stored.get("data", "")).as_dict())
    except ConfigError:
        return {}


def _differs(name: str, stored: dict[str, Any], usual: dict[str, Any], given: list[str] | None) -> bool:
    """An option of model or data that was given differs: its default is not known here."""
    if name in _HARMLESS:
        return False
    if name.partition(".")[0] in GROUPS or name not in usual:
        return given is None or name in given
    value, default = stored[name], usual[name]
    if given is not None and name not in given and (name in DERIVED or value is None or default in (None, "auto")):
        return False  # it follows from others
    return bool(value != (list(default) if isinstance(default, tuple) else default))
