"""What was probably meant by the name of a setting, a model or a data set that there is not: the end of a sentence."""

import re
from collections.abc import Iterable
from pathlib import Path

from dlcli.config.registry import DATASETS, MODELS
from dlcli.core.errors import did_you_mean, nearest, plain_name
from dlcli.core.zoo import zoo

# Names that other tools give to our settings, as `plain_name` has them.
_OTHER_NAMES = {
    "lr": ("learningrate", "stepsize"),
    "epochs": ("epoch", "maxepochs", "numepochs", "nepochs", "numtrainepochs"),
    "steps": ("maxsteps", "numsteps", "iterations"),
    "batch_size": ("batch", "bs"),
    "accumulate": ("gradaccum", "gradientaccumulationsteps", "accumulategradbatches"),
    "optimizer": ("opt", "optim"),
    "schedule": ("scheduler", "lrscheduler", "lrschedule"),
    "warmup_epochs": ("warmup",),
    "weight_decay": ("wd", "l2"),
    "clip_norm": ("maxnorm", "maxgradnorm", "gradclip", "clipgrad", "gradientclipval"),
    "loss": ("criterion", "lossfn", "lossfunction"),
    "patience": ("earlystopping", "earlystop"),
    "data": ("dataset",),
    "val_fraction": ("valsplit", "validationsplit"),
    "test_fraction": ("testsplit",),
    "device": ("gpu", "cuda", "accelerator"),
    "precision": ("amp", "mixedprecision", "dtype"),
    "threads": ("numthreads",),
    "seed": ("randomseed", "randomstate", "manualseed"),
    "runs_dir": ("outputdir", "outdir", "logdir"),
}
_OURS = {other: ours for ours, others in _OTHER_NAMES.items() for other in others}

# Kinds of data that there will be, and endings of files of theirs.
_NOT_READ = {
    "archive": ("archives", (".zip", ".tar", ".gz", ".tgz")),
    "texts": ("folders of texts", ()),
}
_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")
_OTHERS = (".parquet", ".xlsx", ".json", ".npy", ".pt", ".pth", ".pkl", ".h5", ".hdf5", ".mat")
# What to write for a file with such an ending.
_READ = {
    "--data table:{} --set data.target=COLUMN": (".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz"),
    "arrays:{}": (".npz", ".safetensors"),
    "text:{}": (".txt", ".text", ".md", ".rst", ".log"),
}


def meant_setting(name: str, known: Iterable[str]) -> str:
    """known: settings, or the options that set them."""
    choices = list(known)
    ours = [choice for choice in choices if plain_name(choice) == plain_name(_OURS.get(plain_name(name), ""))]
    return f"did you mean {ours[0]}?" if ours else did_you_mean(name, choices)


def meant_model(name: str) -> str | None:
    """Of a name that is not registered; None for one of the form of own code, package.module:Name."""
    if name.startswith(("torchvision:", "timm:")):
        place, _, rest = name.partition(":")
        return f"{rest or 'nothing'} is no name of a model of {place}, such as {place}:resnet18"
    if ":" in name:
        return _as_own_code(name, "Net")
    if name in DATASETS:
        return f"it is a data set, as in `dlcli train MODEL --data {name}`"
    if (own := _as_own_code(name, "Net")) is not None:
        return own
    if _as_file(name) is not None:
        return f"it is a file or a folder: name a model first, as in `dlcli train mlp --data {name}`"
    near = nearest(name, [*MODELS, *zoo()])
    if not near:
        return f"{did_you_mean(name, MODELS)}, and those of `dlcli models --zoo`"
    if begun := [known for known in near if known.startswith(name) or name.startswith(known)]:
        return did_you_mean(name, begun)
    return did_you_mean(name, MODELS if near[0] in MODELS else zoo())


def meant_data(name: str) -> str | None:
    """As `meant_model`."""
    kind, colon, place = name.partition(":")
    if colon and kind in _NOT_READ and (not place.isidentifier() or Path(place).exists()):
        return _not_read(_NOT_READ[kind][0])
    if colon:
        return _as_own_code(name, "load")
    if name in MODELS:
        return f"it is a model, as in `dlcli train {name}`"
    if any(plain_name(name) == plain_name(ours) for ours in DATASETS):
        return did_you_mean(name, DATASETS)
    if Path(name).suffix.lower() in _IMAGES:
        return "images are read from a folder that has a sub-folder for each class: name it, images:FOLDER"
    return _as_own_code(name, "load") or _as_file(name) or did_you_mean(name, DATASETS)


def _as_own_code(name: str, attribute: str) -> str | None:
    """mine.py, src/mine.py:Net and mine.Net, which name own code in another way than Python's."""
    match = re.fullmatch(r"(?:\./)?([\w/]+)\.py(?::(\w+))?", name) or re.fullmatch(r"([\w.]+)\.([A-Z]\w*)", name)
    if match is None or match[1].startswith("/"):
        return None
    return f"did you mean {match[1].replace('/', '.')}:{match[2] or attribute}?"


def _as_file(name: str) -> str | None:
    """What can be done with a file or folder, whether it is there or only looks like one."""
    path = Path(name)
    if path.is_dir() or name.endswith("/"):
        return f"did you mean images:{name}?"
    for words, endings in _READ.items():
        if name.lower().endswith(endings):
            return f"did you mean {words.format(name)}?"
    suffix = path.suffix.lower()
    for what, endings in _NOT_READ.values():
        if suffix in endings:
            return _not_read(what)
    if suffix in _OTHERS:
        return _not_read(f"{suffix} files")
    return f"did you mean text:{name}?" if path.is_file() else None


def _not_read(what: str) -> str:
    return (
        f"{what} of your own are not read yet; read them in a function of your own, "
        "load(data_dir) -> Source in mine.py, and name mine:load"
    )
