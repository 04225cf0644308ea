"""The data of a config: read by its loader, checked and split."""

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
from dlcli.config.schemes import data_entry, model_entry, split_file
from dlcli.config.settings import TrainConfig
from dlcli.core import options
from dlcli.core.blame import asked_for, blamed, defined
from dlcli.core.cache import user_cache
from dlcli.core.errors import ConfigError, DataError, ResourceError
from dlcli.core.reading import places
from dlcli.core.seeds import derive
from dlcli.data.dataset import Dataset
from dlcli.data.prepare import prepare
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.source import Source, Unfitted, sound
from dlcli.data.texts.corpus import Corpus


def import_own(config: TrainConfig, *, runs_dir: str | Path) -> None:
    """Import the user's own model and data set that `config` names, if any, but nothing from the folder of runs.

    Must be called first with the settings of a run, which is untrusted. RunError if the code is in the folder of runs.
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
    source: Source | Unfitted | None = None,
) -> Dataset:
    """The data set of `config`, split and on `device`.

    name: another data set to use instead. If it has the same loader, the data options and `test_fraction` of `config`
        apply to it as well, but a test file does not.
    preprocessing: the one that a model was trained with. DataError if the data has another shape; a text is encoded
        with its alphabet.
    fingerprint: of the data that a model was trained on; DataError if this data is different.
    source: what was read already, by `read_as_trained`.
    """
    # Of data that is named instead of the run's own, a validation set of its own is used without a question.
    own_val = "val_fraction" not in config.given or name is not None
    if name is not None:
        config = on_data(config, name)
    if fingerprint is not None and source is None:
        check_there(config)
    source = read_as_trained(config, preprocessing) if source is None else source
    source = source.as_it_was(fingerprint) if isinstance(source, Corpus) else source
    changed = (
        f"data {config.data} has changed since the model was trained on it{_difference(source, fingerprint)}: restore "
        f"it, or use it as it is now with --data {config.data}"
    )
    if not isinstance(source, Source):
        if fingerprint is not None and source.fingerprint != fingerprint:
            raise DataError(changed)
        if isinstance(source, Corpus) and preprocessing is not None:
            _check_text(source, preprocessing, config.data)
    elif preprocessing is not None:
        if fingerprint is not None and (source.spec, source.alphabet) != (preprocessing.spec, preprocessing.alphabet):
            raise DataError(changed)
        source = _fitting(source, preprocessing, config.data)
    found = prepared(source, config, own_val=own_val, device=device, preprocessing=preprocessing)
    if fingerprint is not None and found.fingerprint != fingerprint:
        raise DataError(changed)
    return found


def _check_text(source: Corpus, about: Preprocessing, name: str) -> None:
    """DataError if a model was trained on other data than texts, which have no shape of their own."""
    if about.spelling is None:
        raise DataError(
            f"data {name} is a text for next-token, and does not have the shape that the model was trained on "
            f"({about.spec}, {about.spec.outputs} outputs, {about.spec.task})"
        )


def on_data(config: TrainConfig, name: str) -> TrainConfig:
    """`config` with another data set; what does not depend on its rows applies to it if it has the same loader."""
    if name == config.data:
        return config
    same_loader = data_entry(name).target == data_entry(config.data).target
    kept = {n: v for n, v in config.data_options.items() if n not in ("val", "test")} if same_loader else {}
    return config.with_values(data=name, data_options=kept, test_fraction=config.test_fraction if same_loader else None)


def check_there(config: TrainConfig) -> None:
    """DataError if the file or folder that a model was trained on is gone."""
    found = split_file(config.data)
    if found is None:
        return
    named = places(found[1]) if found[0] == "text" else [found[1]]
    gone = next((place for place in named if not Path(place).exists()), None)
    if gone is not None:
        raise DataError(f"{gone} does not exist: if it was moved, name its new place with --data {found[0]}:PATH")


def read_as_trained(config: TrainConfig, preprocessing: Preprocessing | None) -> Source | Unfitted:
    """As `read`; the task of a table is that of the model, if there is one."""
    if preprocessing is not None and preprocessing.encoding is not None and "task" in config.data_options:
        config = config.with_values(data_options=config.data_options | {"task": preprocessing.spec.task})
    return read(config)


def prepared(
    source: Source | Unfitted,
    config: TrainConfig,
    *,
    own_val: bool = True,
    device: torch.device | str = "cpu",
    preprocessing: Preprocessing | None = None,
) -> Dataset:
    """As `prepare`, with the settings of `config`. own_val: whether a validation set of the data takes the place of
    `val_fraction`."""
    official = own_val and source.has_val
    return prepare(
        source,
        val_fraction=None if official else config.val_fraction,
        test_fraction=config.test_fraction,
        normalize=config.normalize,
        statistics=(config.mean, config.std) if config.mean else None,
        seed=derive(config.seed, "split"),
        device=device,
        preprocessing=preprocessing,
    )


def _difference(source: Source | Unfitted, fingerprint: str | None) -> str:
    """` (3 new, 1 changed)` for the files of a folder, as far as it is known, or nothing."""
    if fingerprint is None or not re.fullmatch("[0-9a-f]{64}", fingerprint):
        return ""
    from dlcli.data.images.entries import changes

    told = ""
    if isinstance(source, Corpus):
        told = changes(fingerprint, source.fingerprint, of="texts")
    elif isinstance(source, Source) and source.crop:
        told = changes(fingerprint, source.digest, of="images")
    return f" ({told})" if told else ""


def data_folder(config: TrainConfig) -> Path:
    """The folder of all data sets: `data_dir`, else a folder in the user's cache."""
    return Path(config.data_dir) if config.data_dir else user_cache() / "data"


def read_source(config: TrainConfig) -> Source:
    """As `read`; a table is encoded with all its rows."""
    found = read(config)
    return found if isinstance(found, Source) else found.fit(torch.arange(found.rows), None)


def read(config: TrainConfig) -> Source | Unfitted:
    """What the loader of the data set of `config` returns. DataError if a user's own loader fails or does not return a
    valid Source; ResourceError if the data does not fit into memory."""
    loader = _loader(config.data)
    chosen = options.resolve(loader, _with_path(config), where="data")
    with blamed(DataError, f"data {config.data} cannot be loaded") if _is_own(config.data) else nullcontext():
        try:
            source = loader(data_folder(config), **chosen)
        except (MemoryError, RuntimeError) as error:
            # torch reports a failed allocation as a RuntimeError.
            if isinstance(error, RuntimeError) and not re.search("allocate|Storage size|too large", str(error)):
                raise
            raise ResourceError(
                f"data {config.data} does not fit into memory{asked_for(error)}: this machine has "
                f"{devices.memory() / 1e9:.1f} GB; take a smaller part of it"
            ) from None
    if not _is_own(config.data) and not isinstance(source, Source):
        return source
    try:
        return sound(source)
    except ValueError as error:
        place = defined(loader) if _is_own(config.data) else ""
        raise DataError(f"data {config.data} is not sound: {error}" + (f", in {place}" if place else "")) from None


def _fitting(source: Source, about: Preprocessing, name: str) -> Source:
    """`source` with the alphabet of `about`, which a model was trained with; DataError if their shapes differ."""
    if source.alphabet and about.alphabet and source.alphabet != about.alphabet:
        from dlcli.data.texts.corpus import respelt

        source = respelt(source, about.alphabet)
    if source.spec != about.spec:
        raise DataError(
            f"data {name} ({source.spec}, {source.spec.outputs} outputs, {source.spec.task}) does not have the shape "
            f"that the model was trained on ({about.spec}, {about.spec.outputs} outputs, {about.spec.task})"
        )
    if source.crop and about.crop and source.class_names != about.class_names:
        raise DataError(
            f"the classes of data {name} ({', '.join(source.class_names[:10])}) are not those that the model was "
            f"trained on ({', '.join(about.class_names[:10])}): name the folders of the classes alike"
        )
    return source


def _with_path(config: TrainConfig) -> dict[str, Any]:
    """The options of the data; for `text:FILE` and its like also the path."""
    found = split_file(config.data)
    return config.data_options | ({"path": found[1]} if found else {})


def _loader(name: str) -> Callable[..., Source | Unfitted]:
    """The function that loads a data set. A user's own loader must be annotated to return a Source, so that a name in
    an untrusted run cannot cause any other function to be called."""
    loader = load(data_entry(name).target)
    if _is_own(name) and not _returns_source(loader):
        place = defined(loader)
        raise ConfigError(
            f"data {name!r} is no function that is annotated to load data: def NAME(data_dir) -> Source"
            + (f", in {place}" if place else "")
        )
    return cast(Callable[..., Source | Unfitted], loader)


def _is_own(name: str) -> bool:
    return name.partition(":")[0] not in DATASETS


def _returns_source(function: Any) -> bool:
    try:
        return isinstance(function, types.FunctionType) and typing.get_type_hints(function).get("return") is Source
    except (NameError, TypeError, AttributeError, SyntaxError):  # an annotation that cannot be resolved
        return False
