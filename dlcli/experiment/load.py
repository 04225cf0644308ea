"""The data of a config: read by its loader, checked, split."""

import os
import re
import types
import typing
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch

from dlcli.compute import devices
from dlcli.config.own_code import load
from dlcli.config.registry import DATASETS
from dlcli.config.schemes import data_entry, model_entry
from dlcli.config.settings import TrainConfig
from dlcli.core import options
from dlcli.core.blame import asked_for, blamed, defined
from dlcli.core.errors import ConfigError, DataError, ResourceError
from dlcli.core.seeds import derive
from dlcli.data.dataset import Dataset
from dlcli.data.prepare import prepare
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.source import Source, sound


def import_own(config: TrainConfig, *, runs_dir: str | Path) -> None:
    """Import the own model and data set that `config` names, if it does, but nothing from the folder of runs.

    To be called first with the settings of a run, which may be a stranger's. RunError when the code came with it.
    """
    for target in (model_entry(config.model).target, data_entry(config.data).target):
        load(target, runs_dir=Path(runs_dir))


def load_data(
    config: TrainConfig,
    *,
    device: torch.device | str,
    name: str | None = None,
    preprocessing: Preprocessing | None = None,
    fingerprint: str | None = None,
) -> Dataset:
    """The data set of `config`, split and on `device`.

    name: a data set of the same shape to take instead; of another one, the splits are those of `config`'s settings.
    preprocessing: the one that a model was trained with: the data must have its shape, and a text is spelt in its
        alphabet.
    fingerprint: of the data that a model was trained on. DataError when these are not the same.
    """
    if name is not None and name != config.data:
        same_loader = data_entry(name).target == data_entry(config.data).target
        kept = config.data_options if same_loader else {}
        config = config.with_values(
            data=name, data_options=kept, test_fraction=config.test_fraction if same_loader else None
        )
    source = read_source(config)
    changed = (
        f"data {config.data} has changed since the model was trained on it: put it back, or take what is there with "
        f"--data {config.data}"
    )
    if preprocessing is not None:
        if fingerprint is not None and (source.spec, source.alphabet) != (preprocessing.spec, preprocessing.alphabet):
            raise DataError(changed)
        source = _fitting(source, preprocessing, config.data)
    found = prepare(
        source,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        normalize=config.normalize,
        seed=derive(config.seed, "split"),
        device=device,
        preprocessing=preprocessing,
    )
    if fingerprint is not None and found.fingerprint != fingerprint:
        raise DataError(changed)
    return found


def data_folder(config: TrainConfig) -> Path:
    """Where data sets lie: `data_dir`, else the user's cache folder."""
    if config.data_dir:
        return Path(config.data_dir)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "dlcli" / "data"


def read_source(config: TrainConfig) -> Source:
    """What the loader of `config`'s data set returns; DataError when an own one fails, or returns no sound Source."""
    loader = _loader(config.data)
    chosen = options.resolve(loader, _with_path(config), where="data")
    with blamed(DataError, f"data {config.data} cannot be loaded") if _is_own(config.data) else nullcontext():
        try:
            source = loader(data_folder(config), **chosen)
        except (MemoryError, RuntimeError) as error:
            # torch tells it in the text of a RuntimeError
            if isinstance(error, RuntimeError) and not re.search("allocate|Storage size|too large", str(error)):
                raise
            raise ResourceError(
                f"data {config.data} does not fit into memory{asked_for(error)}: this machine has "
                f"{devices.memory() / 1e9:.1f} GB; take a smaller part of it"
            ) from None
    try:
        return sound(source)
    except ValueError as error:
        place = defined(loader) if _is_own(config.data) else ""
        raise DataError(f"data {config.data} is not sound: {error}" + (f", in {place}" if place else "")) from None


def _fitting(source: Source, about: Preprocessing, name: str) -> Source:
    """`source` as a model that was trained with `about` takes it; DataError when it cannot."""
    if source.alphabet and about.alphabet and source.alphabet != about.alphabet:
        from dlcli.data.text import respelt

        source = respelt(source, about.alphabet)
    if source.spec != about.spec:
        raise DataError(
            f"data {name} ({source.spec}, {source.spec.outputs} outputs, {source.spec.task}) has not the shape that "
            f"the model was trained on ({about.spec}, {about.spec.outputs} outputs, {about.spec.task})"
        )
    return source


def _with_path(config: TrainConfig) -> dict[str, Any]:
    """The data's options; `text:FILE` gives the loader its path."""
    kind, colon, path = config.data.partition(":")
    return config.data_options | ({"path": path} if colon and kind == "text" else {})


def _loader(name: str) -> Callable[..., Source]:
    """The function that loads a data set. An own one says so itself, by its annotation: a name that a stranger
    wrote must not get any other function called."""
    loader = load(data_entry(name).target)
    if _is_own(name) and not _returns_source(loader):
        place = defined(loader)
        raise ConfigError(
            f"data {name!r} is no function that is annotated to load data: def NAME(data_dir) -> Source"
            + (f", in {place}" if place else "")
        )
    return cast(Callable[..., Source], loader)


def _is_own(name: str) -> bool:
    return name.partition(":")[0] not in DATASETS


def _returns_source(function: Any) -> bool:
    try:
        return isinstance(function, types.FunctionType) and typing.get_type_hints(function).get("return") is Source
    except (NameError, TypeError, AttributeError, SyntaxError):  # an annotation that cannot be resolved
        return False
