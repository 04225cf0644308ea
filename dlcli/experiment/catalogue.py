"""Descriptions of a model or a data set, for `dlcli models NAME` and `dlcli datasets NAME`."""

import os
from pathlib import Path
from typing import Any

from dlcli.config.own_code import load
from dlcli.config.schemes import data_entry, listed_model, model_entry, split_file
from dlcli.config.settings import TrainConfig
from dlcli.core import options
from dlcli.core.errors import ConfigError
from dlcli.core.reading import places
from dlcli.core.zoo import IMAGENET1K, ZooModel
from dlcli.data.published import DOWNLOADS
from dlcli.experiment.guard import build_model
from dlcli.experiment.load import data_folder, read, read_source


def about_model(name: str) -> dict[str, Any]:
    """model, summary, takes (the kinds of data), data (its default data set), defaults (its own settings), parameters,
    and options, in the form of `options.described`; of a model of torchvision also size, least, multiple and weights.

    parameters: of the model with its default options on its default data, of a model of torchvision with 1000 classes;
    None if it has an option without a default.
    Raises ConfigError for an unknown name, and for a user's own class that cannot be built.
    """
    entry = model_entry(name)
    found = options.described(load(entry.target))
    parameters, known = None, listed_model(name)
    if known is not None:
        parameters = known.parameters
    elif not any(option["required"] for option in found):
        config = TrainConfig(name)
        model = build_model(config, read_source(config).spec)
        parameters = sum(p.numel() for p in model.parameters())
    return {
        "model": name,
        "summary": entry.summary,
        "takes": entry.takes,
        "data": entry.data,
        "defaults": dict(entry.defaults),
        "parameters": parameters,
        "options": found,
        **({} if known is None else _published(known)),
    }


def _published(model: ZooModel) -> dict[str, Any]:
    """What is known of a model of torchvision: its image sizes, and its weights, the default ones first."""
    weights = [
        {
            "entry": w.entry, "accuracy": w.accuracy, "on": IMAGENET1K, "gflops": w.gflops, "size": w.crop,
            "resize": w.resize, "interpolation": w.interpolation, "mean": list(w.mean), "std": list(w.std),
            "megabytes": w.megabytes, "licence": w.licence or None,
        }
        for w in model.weights
    ]  # fmt: skip
    return {"size": model.size, "least": model.least, "multiple": model.multiple, "weights": weights}


def about_data(name: str, *, data_dir: str | None) -> dict[str, Any]:
    """data, summary, task, shape, size, licence, origin, defaults (recommended settings), options, and files.

    files: {"folder", "names", "missing", "download"}, the files it is read from and the size of a download in bytes;
    None for a data set that is part of a library or synthetic.
    Raises ConfigError for an unknown name.
    """
    entry = data_entry(name)
    folder = data_folder(TrainConfig("mlp", data_dir=data_dir))
    return {
        "data": name,
        "summary": entry.summary,
        "task": entry.task,
        "shape": entry.shape,
        "size": entry.size,
        "licence": entry.licence,
        "origin": entry.origin,
        "defaults": dict(entry.defaults),
        "options": options.described(load(entry.target)),
        "files": _files(name, folder),
    }


def fetch_data(name: str, *, data_dir: str | None) -> dict[str, Any]:
    """Download what is missing of a built-in data set, and check all of it: data, folder, files, and downloaded, the
    names of the files that were missing.

    Raises ConfigError for data that is not downloaded, and what a training raises if it cannot be.
    """
    if name not in DOWNLOADS:
        place = "is a file of your own" if split_file(name) is not None else "comes with dlcli or its libraries"
        data_entry(name)  # refuses an unknown name
        raise ConfigError(f"{name} {place}, and needs no download: fetch takes {', '.join(DOWNLOADS)}")
    config = TrainConfig("mlp", data=name, data_dir=data_dir)
    before = _files(name, data_folder(config))
    assert before is not None
    read(config)
    return {"data": name, "folder": before["folder"], "files": before["names"], "downloaded": before["missing"]}


def _files(name: str, data_folder: Path) -> dict[str, Any] | None:
    if (own := split_file(name)) is not None:
        named = [Path(place) for place in (places(own[1]) if own[0] == "text" else [own[1]])]
        if len({place.is_absolute() for place in named}) > 1:
            named = [place.absolute() for place in named]
        folder = Path(os.path.commonpath([place.parent for place in named]))
        names, download = [str(place.relative_to(folder)) for place in named], 0
    elif name in DOWNLOADS:
        place, archives = DOWNLOADS[name]
        folder, names = data_folder / place, [file.name for archive in archives for file in archive.files]
        download = sum(archive.size for archive in archives)
    else:
        return None
    missing = [file for file in names if not (folder / file).is_file()]
    return {"folder": str(folder), "names": names, "missing": missing, "download": download}
