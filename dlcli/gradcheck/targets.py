"""Target names -> cases: built-in models with the loss of their task, layers, losses. For a user's own see own.py."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from dlcli.config.own_code import load
from dlcli.config.schemes import listed_model, model_entry, zoo_name
from dlcli.core import options
from dlcli.core.errors import ConfigError, did_you_mean
from dlcli.core.spec import DataSpec
from dlcli.gradcheck.inputs import Input, batch_of, targets_of
from dlcli.gradcheck.own import BATCH, own_case
from dlcli.gradcheck.subject import Case
from dlcli.models.blocks import ACTIVATIONS, MeanMixing, SelfAttention
from dlcli.models.gru import GRU
from dlcli.tasks.choose import choose_task
from dlcli.tasks.task import Task

# The cases of every built-in model: a label, the data, and options that enable what is off by default.
_FEATURES = DataSpec("regression", "features", (5,), 1)
_CLASSES = DataSpec("multiclass", "features", (5,), 3)
_IMAGES = DataSpec("multiclass", "image", (2, 6, 6), 3)
_RECALL = DataSpec("multiclass", "tokens", (5,), 3, vocabulary=7)
_TEXTS = DataSpec("multiclass", "tokens", (5,), 3, vocabulary=7, padding=True)
_TEXT = DataSpec("next-token", "tokens", (4,), 6, vocabulary=6)

_SMALL_TABULAR = {"width": 4, "blocks": 2, "embedding": 2, "frequencies": 3, "dropout": 0.2}

_MODELS: dict[str, tuple[tuple[str, DataSpec, dict[str, Any]], ...]] = {
    "linear": (("", _FEATURES, {}),),
    "logistic": (
        ("binary", DataSpec("binary", "features", (5,), 1), {}),
        ("classes", _CLASSES, {}),
    ),
    "mlp": (
        ("relu", _CLASSES, {"hidden": (6, 5), "dropout": 0.2}),
        ("gelu", _FEATURES, {"hidden": (6,), "activation": "gelu", "dropout": 0.2}),
    ),
    "tabular": (
        ("", DataSpec("multiclass", "features", (5,), 3, flags=(1, 3)), _SMALL_TABULAR),
        ("no numbers", DataSpec("regression", "features", (3,), 1, flags=(0, 1, 2)), _SMALL_TABULAR),
    ),
    "lenet": (("", DataSpec("multiclass", "image", (1, 8, 8), 3), {"dropout": 0.2}),),
    "cnn": (("", _IMAGES, {"channels": (3, 4), "hidden": 6, "dropout": 0.2}),),
    "simple-cnn": (("", _IMAGES, {"channels": 3}),),
    "airbench": (("", _IMAGES, {"channels": (3, 4)}),),
    "rnn": (
        ("", _TEXT, {"embedding": 3, "hidden": 3, "layers": 2, "dropout": 0.2}),
        ("texts", _TEXTS, {"embedding": 3, "hidden": 3}),
    ),
    "ngrams": (("", _TEXTS, {"longest": 3, "buckets": 11, "width": 3, "dropout": 0.2}),),
    "attention": (
        ("classes", _RECALL, {"width": 4, "heads": 2, "layers": 2, "dropout": 0.2}),
        ("next token", _TEXT, {"width": 4, "heads": 2, "positions": "sinusoidal"}),
        ("texts", _TEXTS, {"width": 4, "heads": 2, "causal": True}),
        ("texts, mean", _TEXTS, {"width": 4, "heads": 1, "mixing": "mean"}),
        ("images, mean", _IMAGES, {"width": 4, "heads": 1, "positions": "none", "mixing": "mean"}),
    ),
}

# Height and width of the images on which a model of a zoo is checked, if it takes such small ones.
_SMALL_IMAGE = 32

_SEQUENCE = (Input("float", (2, 3, 4)),)

_LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[Input, ...]]] = {
    "self-attention": (lambda: SelfAttention(4, heads=2, dropout=0.2), _SEQUENCE),
    "causal-attention": (lambda: SelfAttention(4, heads=1, causal=True), _SEQUENCE),
    "mean-mixing": (lambda: MeanMixing(4), _SEQUENCE),
    "causal-mean-mixing": (lambda: MeanMixing(4, causal=True), _SEQUENCE),
    "gru": (lambda: GRU(4, 3, 2, batch_first=True, dropout=0.2), _SEQUENCE),
    **{name: (make, (Input("float", (3, 5)),)) for name, make in ACTIVATIONS.items() if name != "none"},
}


class Loss(nn.Module):
    """The loss of a task as a module: output and target -> scalar."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.task.loss(output, target)


def _loss(spec: DataSpec, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: Loss(choose_task(spec, **settings))


_REAL = (Input("float", (6, 1)), Input("float", (6,)))
_LOGITS = (Input("float", (4, 5)), Input("int", (4,), 0, 5))

_LOSSES: dict[str, tuple[Callable[[], nn.Module], tuple[Input, ...]]] = {
    "mse": (_loss(_FEATURES, loss="mse"), _REAL),
    "l1": (_loss(_FEATURES, loss="l1"), _REAL),
    "huber": (_loss(_FEATURES, loss="huber"), _REAL),
    "bce": (
        _loss(DataSpec("binary", "features", (5,), 1)),
        (Input("float", (6, 1)), Input("int", (6,), 0, 2)),
    ),
    "cross-entropy": (_loss(DataSpec("multiclass", "features", (5,), 5)), _LOGITS),
    "label-smoothing": (_loss(DataSpec("multiclass", "features", (5,), 5), label_smoothing=0.1), _LOGITS),
    "next-token": (_loss(_TEXT), (Input("float", (2, 4, 6)), Input("int", (2, 4), 0, 6))),
}


def names() -> list[str]:
    """The names of all built-in targets."""
    return [*_MODELS, *_LAYERS, *_LOSSES]


def cases(
    targets: Sequence[str],
    *,
    inputs: Sequence[str] = (),
    settings: Sequence[str] = (),
    data: str | None = None,
    data_dir: str | None = None,
) -> list[Case]:
    """The cases of target names; `all` is every built-in one, `package.module:Name` the user's own.

    inputs: shapes of the arguments of an own module (see `inputs.parse`). settings: KEY=VALUE for its constructor.
    data: the data set that determines the input of an own model, instead of `inputs`. data_dir: the data folder.
    Raises ConfigError for an unknown name, and for something that is no module, autograd Function or factory of a
    module, which is never called.
    """
    own = [t for t in targets if ":" in t and zoo_name(t) is None]
    if (inputs or settings or data) and len(targets) != len(own):
        built_in = next(t for t in targets if t not in own)
        raise ConfigError(f"--input, --data and --set are for your own package.module:Name, but {built_in} is built in")
    if not targets:
        raise ConfigError(f"name a target: all, one of {', '.join(names())}, or your own package.module:Name")
    found: list[Case] = []
    for target in targets:
        if zoo_name(target) is not None:
            found.append(_zoo_case(target))
            continue
        if ":" in target:
            found.append(own_case(target, inputs=inputs, settings=settings, data=data, data_dir=data_dir))
            continue
        if target not in ("all", *names()):
            raise ConfigError(f"unknown target {target!r}: {did_you_mean(target, ['all', *names()])}")
        for name in names() if target == "all" else [target]:
            found += built_in_cases(name)
    return list({case.name: case for case in found}.values())


def built_in_cases(name: str) -> list[Case]:
    """The cases of one built-in target; a model may have several, on different data."""
    if name in _MODELS:
        return [_model_case(name, *variant) for variant in _MODELS[name]]
    make, inputs = (_LAYERS | _LOSSES)[name]
    return [Case(name, make, inputs)]


def _zoo_case(name: str) -> Case:
    """A model of a zoo, for small images: it has too many parameters to take long over each of them."""
    known = listed_model(name)
    size = _SMALL_IMAGE if known is None else max(_SMALL_IMAGE, known.least)
    return _model_case(name, f"{size} pixels", DataSpec("multiclass", "image", (3, size, size), 3), {})


def _model_case(name: str, label: str, spec: DataSpec, settings: Mapping[str, Any]) -> Case:
    def build() -> nn.Module:
        maker = load(model_entry(name).target)
        return cast(nn.Module, maker(spec, **options.resolve(maker, settings, where="model")))

    return Case(
        f"{name} ({label})" if label else name,
        build,
        (batch_of(spec, BATCH),),
        label=targets_of(spec, BATCH),
        loss=choose_task(spec).loss,
    )
