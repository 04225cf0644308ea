"""dlcli models, dlcli datasets: lists what is built in, and the details of one model or data set."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from dlcli.cli.arguments import Assignments, with_format
from dlcli.cli.flags import typed_layer, with_data_options
from dlcli.cli.output import Column, Format, byte_size, emit, say, setting, write
from dlcli.config.environment import read_environment
from dlcli.config.registry import DATASETS, MODELS
from dlcli.core.errors import ConfigError

_OPTIONS = [
    Column("name", "option", fixed=True),
    Column("type", "type"),
    Column("default", "default"),
]


def _licence(stated: str | None) -> str:
    return stated or "not stated"


_WEIGHTS = [
    Column("entry", "entry", fixed=True),
    Column("accuracy", "accuracy", lambda percent: f"{percent:.1f}", right=True),
    Column("size", "pixels", right=True),
    Column("resize", "resized to", right=True, drop=3),
    Column("interpolation", "interpolation", drop=2),
    Column("megabytes", "MB", lambda size: f"{size:.0f}", right=True, drop=1),
    Column("licence", "licence", _licence),
]


@with_format
def models(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show all about this model, or your own package.module:Name.")
    ] = None,
    *,
    zoo: Annotated[bool, typer.Option("--zoo", help="List the models of torchvision instead.")] = False,
    mermaid: Annotated[
        bool, typer.Option("--mermaid", help="Print the tree of NAME as a flowchart for Markdown, and nothing else.")
    ] = False,
    svg: Annotated[
        bool, typer.Option("--svg", help="Print the tree of NAME as an SVG picture, and nothing else.")
    ] = False,
    format: Format,
) -> None:
    """List the built-in models, or show one in detail.

    With NAME: its input, its options with their types and defaults, and the
    tree of its modules with the shape of what they give for one sample, their
    parameters and FLOPs; --csv and --md print its options only.
    With --zoo: torchvision's models, with what is published of their default
    weights (top-1 accuracy on ImageNet-1K, in percent).
    """
    drawn = {"--mermaid": mermaid, "--svg": svg}
    asked = [option for option, given in drawn.items() if given]
    if asked and name is None:
        raise ConfigError(f"{asked[0]} draws one model: name it, as in dlcli models cnn {asked[0]}")
    if len(asked) > 1 or (asked and format is not Format.table):
        other = asked[1] if len(asked) > 1 else f"--{format}"
        raise ConfigError(f"{asked[0]} and {other} exclude each other: choose one")
    if zoo:
        if name is not None:
            raise ConfigError(f"--zoo lists all of torchvision: leave {name} or --zoo out")
        _list_zoo(format)
        return
    if name is not None:
        from dlcli.experiment.catalogue import about_model

        if asked:
            _draw(name, as_svg=svg)
            return
        found = about_model(name)
        on = f"on {found['data']}" if "weights" not in found else "with 1000 classes"
        parameters = "-" if found["parameters"] is None else f"{found['parameters']:,} {on}"
        facts = {
            "what it is": found["summary"],
            "takes": found["takes"],
            "parameters": parameters,
            "default data": found["data"],
            "its own defaults": _pairs(found["defaults"]),
            **(_sizes(found) if "weights" in found else {}),
        }
        shape, layers = _tree(name, found)
        found |= {"input": None if shape is None else list(shape), "layers": [layer.as_dict() for layer in layers]}
        _tell(name, facts, found, owner="model", format=format)
        if "weights" in found and format is Format.table:
            emit(found["weights"], _WEIGHTS, format=format, title="published weights, for --pretrained ENTRY")
        if layers and format is Format.table:
            title = f"modules, with the shape of what they give for one sample of {_shape(shape)}"
            emit(_rows_of(layers), _LAYERS, format=format, title=title)
        return
    rows = [
        {"model": name, "summary": e.summary, "takes": e.takes, "data": e.data, "defaults": dict(e.defaults)}
        for name, e in MODELS.items()
    ]
    emit(
        [{**row, "defaults": _pairs(MODELS[str(row["model"])].defaults)} for row in rows],
        [
            Column("model", "model", fixed=True),
            Column("summary", "what it is", cut=45),
            Column("takes", "takes", cut=30, drop=2),
            Column("data", "default data", drop=1),
            Column("defaults", "its own defaults", cut=30, drop=3),
        ],
        format=format,
        document=rows,
    )


def _tree(name: str, found: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """The shape of a sample and the layers; neither for a model with an option that must be given, and for one that
    cannot be built or called, which is told."""
    if any(option["required"] for option in found["options"]):
        return None, []
    from dlcli.analysis.profile.outline import outline_of

    try:
        return outline_of(name)
    except ConfigError as error:
        say(f"no tree is shown: {error}")
        return None, []


def _draw(name: str, *, as_svg: bool) -> None:
    """Print the tree alone."""
    from dlcli.analysis.profile.outline import mermaid, outline_of

    shape, layers = outline_of(name)
    if not as_svg:
        write(mermaid(layers))
        return
    from dlcli.plots.picture import Picture, Tree
    from dlcli.plots.svg import to_svg

    keys = [column.key for column in _LAYERS]
    items = [
        (layer.depth, [column.show(row[key]) for key, column in zip(keys, _LAYERS, strict=True)])
        for layer, row in zip(layers, _rows_of(layers, indented=False), strict=True)
    ]
    tree = Tree(f"{name}, for one sample of {_shape(shape)}", [column.heading for column in _LAYERS], items)
    write(to_svg(Picture(name, [tree])))


def _rows_of(layers: Sequence[Any], *, indented: bool = True) -> list[dict[str, Any]]:
    """Each layer with the last part of its name, below the layer that holds it."""
    rows = []
    for layer in layers:
        short = layer.name.rpartition(".")[2] if layer.depth else layer.name
        rows.append(layer.as_dict() | {"name": f"{'  ' * layer.depth * indented}{short}", "output": layer.output})
    return rows


def _shape(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else "x".join(map(str, shape)) or "a number"


_LAYERS = [
    Column("name", "module", fixed=True),
    Column("kind", "kind", fixed=True),
    Column("output", "gives", _shape, right=True),
    Column("parameters", "parameters", lambda count: f"{count:,}" if count else "-", right=True),
    Column("flops", "FLOPs", lambda count: f"{count:,}" if count else "-", right=True, drop=1),
]


def _list_zoo(format: Format) -> None:
    from dlcli.core.zoo import zoo

    rows = [
        {
            "model": model.name, "parameters": model.parameters, "gflops": best.gflops, "size": best.crop,
            "accuracy": best.accuracy, "entry": best.entry, "megabytes": best.megabytes,
            "licence": best.licence or None,
        }
        for model in zoo().values()
        for best in model.weights[:1]
    ]  # fmt: skip
    emit(
        rows,
        [
            Column("model", "model", fixed=True),
            Column("parameters", "parameters", lambda count: f"{count:,}", right=True),
            Column("gflops", "GFLOPs", lambda count: f"{count:.2f}", right=True, drop=1),
            Column("size", "pixels", right=True, drop=2),
            Column("accuracy", "accuracy", lambda percent: f"{percent:.1f}", right=True),
            Column("entry", "weights", drop=4),
            Column("megabytes", "MB", lambda size: f"{size:.0f}", right=True, drop=3),
            Column("licence", "their licence", _licence, drop=5),
        ],
        format=format,
    )


def _sizes(found: Mapping[str, Any]) -> dict[str, str]:
    multiple = f", in multiples of {found['multiple']}" if found["multiple"] > 1 else ""
    return {"images": f"{found['size']} pixels; at least {found['least']}{multiple}"}


@with_format
@with_data_options
def datasets(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Show all about this data set, text:FILE, images:FOLDER, or your own package.module:name; or inspect, "
            "or fetch.",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="After inspect or fetch: the data, such as table:FILE.")
    ] = None,
    set_: Assignments = None,
    data_dir: Annotated[
        str | None,
        typer.Option("--data-dir", metavar="PATH", help="Folder of data sets. (default: the user's cache folder)"),
    ] = None,
    *,
    of_data: Mapping[str, Any],
    format: Format,
) -> None:
    """List the built-in data sets, or show one in detail.

    With NAME: its task, shape, size, licence and origin, its options with
    their types and defaults, and where its files are; --csv and --md print
    its options only. Nothing is downloaded.

    `dlcli datasets inspect table:FILE --target COLUMN` reads the data, and
    shows what would be made of it: its columns or classes, and its splits.

    `dlcli datasets fetch NAME` downloads a built-in data set ahead of a training.
    """
    folder = data_dir or read_environment().get("data_dir")
    if name == "inspect":
        if data is None:
            raise ConfigError("inspect needs data: dlcli datasets inspect table:FILE --target COLUMN")
        from dlcli.cli.inspect import inspect

        given = {"data": data, "data_dir": folder, **of_data}
        inspect(typed_layer(set_ or [], {n: v for n, v in given.items() if v is not None}), format=format)
        return
    if name == "fetch" and not of_data and not set_:
        if data is None:
            raise ConfigError("fetch needs the name of a data set: dlcli datasets fetch mnist")
        _fetch(data, folder, format=format)
        return
    if data is not None or of_data or set_:
        raise ConfigError(f"{data or 'options of data'} can only follow inspect: dlcli datasets inspect DATA")
    if name is not None:
        from dlcli.experiment.catalogue import about_data

        found = about_data(name, data_dir=folder)
        facts = {
            "what it is": found["summary"],
            "task": found["task"],
            "a sample": found["shape"],
            "samples": found["size"],
            "licence": found["licence"],
            "where it comes from": found["origin"],
            "its own defaults": _pairs(found["defaults"]),
            "files": _place(found["files"]),
        }
        _tell(name, facts, found, owner="data", format=format)
        return
    rows = [
        {
            "data": f"{name}:{e.file}" if e.file else name,
            "summary": e.summary,
            "task": e.task,
            "shape": e.shape,
            "size": e.size,
            "licence": e.licence,
            "origin": e.origin,
        }
        for name, e in DATASETS.items()
    ]
    emit(
        rows,
        [
            Column("data", "data", fixed=True),
            Column("summary", "what it is", cut=28),
            Column("task", "task", drop=1),
            Column("shape", "a sample", drop=2),
            Column("size", "samples", right=True, drop=3),
            Column("licence", "licence", drop=4),
            Column("origin", "where it comes from", cut=20, drop=5),
        ],
        format=format,
    )


def _fetch(name: str, data_dir: str | None, *, format: Format) -> None:
    from dlcli.experiment.catalogue import fetch_data

    found = fetch_data(name, data_dir=data_dir)
    done = f"downloaded {len(found['downloaded'])} files" if found["downloaded"] else "it was there already"
    row = {"data": name, "files": len(found["files"]), "folder": found["folder"], "done": done}
    emit([row], [Column(key, key) for key in row], format=format, document=found)


def _tell(name: str, facts: Mapping[str, str], found: Mapping[str, Any], *, owner: str, format: Format) -> None:
    """Print the details of a model or data set: a table of facts, and a table of its options for --set."""
    if format is Format.table:
        pair = [Column("what", "what", fixed=True), Column("value", "value")]
        emit([{"what": k, "value": v} for k, v in facts.items() if v], pair, format=format, title=name)
    rows = [
        {
            "name": f"{owner}.{option['name']}",
            "type": option["type"],
            "default": "must be given" if option["required"] else setting(option["default"]),
        }
        for option in found["options"]
    ]
    if rows or format is not Format.table:
        title = f"options, as in --set {rows[0]['name']}=VALUE" if rows else ""
        emit(rows, _OPTIONS, format=format, title=title, document=found)


def _pairs(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in settings.items())


def _place(files: Mapping[str, Any] | None) -> str:
    """Where the files of a data set belong, and whether they exist."""
    if files is None:
        return ""
    names, missing = files["names"], files["missing"]
    if not missing:
        return f"all there, in {files['folder']}"
    there = "not there yet" if len(missing) == len(names) else f"{len(names) - len(missing)} of {len(names)} there"
    download = f"; a training downloads {byte_size(files['download'])}" if files["download"] else ""
    return f"{there}, in {files['folder']}{download}"
