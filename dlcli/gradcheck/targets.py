"""Target names -> cases: built-in models with their task's loss, shared layers, losses, and a user's own modules."""

import copy
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from dlcli.config.own_code import load
from dlcli.config.registry import MODELS
from dlcli.core import options
from dlcli.core.errors import ConfigError, did_you_mean
from dlcli.core.spec import DataSpec
from dlcli.gradcheck import inputs as input_specs
from dlcli.gradcheck.inputs import Input
from dlcli.gradcheck.subject import Case
from dlcli.models.blocks import ACTIVATIONS, MeanMixing, SelfAttention
from dlcli.models.gru import GRU
from dlcli.tasks.choose import choose_task
from dlcli.tasks.task import Task

# What every built-in model is checked on: a label, the data, and options that switch on what is off by default.
_FEATURES = DataSpec("regression", "features", (5,), 1)
_CLASSES = DataSpec("multiclass", "features", (5,), 3)
_IMAGES = DataSpec("multiclass", "image", (2, 6, 6), 3)
_RECALL = DataSpec("multiclass", "tokens", (5,), 3, vocabulary=7)
_TEXT = DataSpec("next-token", "tokens", (4,), 6, vocabulary=6)

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
    "lenet": (("", DataSpec("multiclass", "image", (1, 8, 8), 3), {"dropout": 0.2}),),
    "cnn": (("", _IMAGES, {"channels": (3, 4), "hidden": 6, "dropout": 0.2}),),
    "simple-cnn": (("", _IMAGES, {"channels": 3}),),
    "rnn": (("", _TEXT, {"embedding": 3, "hidden": 3, "layers": 2, "dropout": 0.2}),),
    "attention": (
        ("classes", _RECALL, {"width": 4, "heads": 2, "layers": 2, "dropout": 0.2}),
        ("next token", _TEXT, {"width": 4, "heads": 2, "positions": "sinusoidal"}),
        ("images, mean", _IMAGES, {"width": 4, "heads": 1, "positions": "none", "mixing": "mean"}),
    ),
}

_BATCH = 3
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
    """A task's loss as a module: output and target -> a scalar."""

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
    """Every built-in target."""
    return [*_MODELS, *_LAYERS, *_LOSSES]


def cases(targets: Sequence[str], *, inputs: Sequence[str] = (), settings: Sequence[str] = ()) -> list[Case]:
    """The cases of target names; `all` is every built-in one, `package.module:Name` the user's own.

    inputs: shapes of an own module's arguments (see `inputs.parse`). settings: KEY=VALUE for its constructor.
    Raises ConfigError for an unknown name, or something that is no module, autograd Function or factory of a
    module; such a thing is never called.
    """
    own = [t for t in targets if ":" in t]
    if (inputs or settings) and len(targets) != len(own):
        built_in = next(t for t in targets if ":" not in t)
        raise ConfigError(f"--input and --set are for your own package.module:Name, but {built_in} is built in")
    if not targets:
        raise ConfigError(f"name a target: all, one of {', '.join(names())}, or your own package.module:Name")
    found: list[Case] = []
    for target in targets:
        if ":" in target:
            found.append(own_case(target, inputs=inputs, settings=settings))
            continue
        if target not in ("all", *names()):
            raise ConfigError(f"unknown target {target!r}: {did_you_mean(target, ['all', *names()])}")
        for name in names() if target == "all" else [target]:
            found += built_in_cases(name)
    return list({case.name: case for case in found}.values())


def built_in_cases(name: str) -> list[Case]:
    """The cases of one built-in target: a model may be checked on several kinds of data."""
    if name in _MODELS:
        return [_model_case(name, *variant) for variant in _MODELS[name]]
    make, inputs = (_LAYERS | _LOSSES)[name]
    return [Case(name, make, inputs)]


def _model_case(name: str, label: str, spec: DataSpec, settings: Mapping[str, Any]) -> Case:
    def build() -> nn.Module:
        model_class = load(MODELS[name].target)
        return cast(nn.Module, model_class(spec, **options.resolve(model_class, settings, where="model")))

    kind = Input("int", (_BATCH, *spec.input_shape), 0, spec.vocabulary) if spec.kind == "tokens" else Input(
        "float", (_BATCH, *spec.input_shape)
    )  # fmt: skip
    return Case(
        f"{name} ({label})" if label else name,
        build,
        (kind,),
        label=_label(spec, _BATCH),
        loss=choose_task(spec).loss,
    )


def _label(spec: DataSpec, batch: int) -> Input:
    if spec.task == "regression":
        return Input("float", (batch,))
    if spec.task == "next-token":
        return Input("int", (batch, *spec.input_shape), 0, spec.outputs)
    return Input("int", (batch,), 0, 2 if spec.task == "binary" else spec.outputs)


def own_case(target: str, *, inputs: Sequence[str], settings: Sequence[str]) -> Case:
    """The case of `package.module:Name`.

    Name may be an nn.Module class, a function whose annotated return type is an nn.Module class, a module, or
    an autograd Function. A class or function is called with `settings`, converted by its annotations. One whose
    first argument is a DataSpec, as `dlcli train` takes it, gets the one that fits the input.
    """
    found = load(target)
    chosen = _parse_settings(settings)
    shapes = tuple(input_specs.parse(text) for text in inputs)
    if isinstance(found, nn.Module):
        if chosen:
            raise ConfigError(f"{target} is a module that is built already: --set {next(iter(chosen))} has no effect")
        make: Callable[[], nn.Module] = lambda: _copy(found, target)  # noqa: E731
    elif isinstance(found, type) and issubclass(found, torch.autograd.Function):
        if chosen:
            raise ConfigError(f"{target} is an autograd Function: it has no constructor for --set")
        make = lambda: Applied(found)  # noqa: E731
    elif isinstance(found, type) and issubclass(found, nn.Module):
        return _constructed(target, found, chosen, shapes)
    elif isinstance(found, types.FunctionType) and _returns_module(found):
        return _constructed(target, found, chosen, shapes)
    else:
        raise ConfigError(f"{target} is {_what(found)}: it was not called")
    _need_inputs(target, shapes)
    return _with_contract(Case(target, make, shapes), found)


class Applied(nn.Module):
    """An autograd Function as a module."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> Any:
        return self.function.apply(*args)

    def _get_name(self) -> str:
        return self.function.__name__


def _constructed(
    target: str, make: Callable[..., nn.Module], chosen: dict[str, str], shapes: tuple[Input, ...]
) -> Case:
    spec = _data_spec(target, make, chosen, shapes)
    arguments = _convert(target, make, chosen)
    _need_inputs(target, shapes)

    def build() -> nn.Module:
        built = make(*([spec] if spec else []), **arguments)
        if not isinstance(built, nn.Module):
            raise ConfigError(f"{target} says that it makes a module, but made a {type(built).__name__}")
        return built

    if spec is None:
        return _with_contract(Case(target, build, shapes), make)
    return Case(target, build, shapes, label=_label(spec, shapes[0].shape[0]), loss=choose_task(spec).loss)


def _data_spec(
    target: str, make: Callable[..., nn.Module], chosen: dict[str, str], shapes: tuple[Input, ...]
) -> DataSpec | None:
    """What a model as `dlcli train` takes it is told of its data; `--set spec.task=` and `spec.outputs=` change it."""
    hints = _hints(make)
    parameters = list(inspect.signature(make).parameters.values())
    if not parameters or hints.get(parameters[0].name) is not DataSpec:
        return None
    _need_inputs(target, shapes)
    x = shapes[0]
    kind: Any = "tokens" if x.kind == "int" else "image" if len(x.shape) == 4 else "features"
    task = options.convert(
        chosen.pop("spec.task", "multiclass"), typing.get_type_hints(DataSpec)["task"], name="spec.task"
    )
    vocabulary = int(x.high or 0) if x.kind == "int" else 0
    usual = {"regression": 1, "binary": 1, "next-token": vocabulary}.get(task, 3)
    outputs = options.convert(chosen.pop("spec.outputs", usual), int, name="spec.outputs")
    return DataSpec(task, kind, x.shape[1:], outputs, vocabulary)


def _need_inputs(target: str, shapes: tuple[Input, ...]) -> None:
    if not shapes:
        raise ConfigError(f"{target} needs the shapes of its arguments: --input 2,3,8,8, or --input int:2,7:0..50")


def _parse_settings(settings: Sequence[str]) -> dict[str, str]:
    chosen = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {setting!r} is not of the form KEY=VALUE")
        chosen[key] = value
    return chosen


def _convert(target: str, make: Callable[..., Any], chosen: Mapping[str, str]) -> dict[str, Any]:
    """Texts as the constructor's annotations say, else as the number, true, false, none or text that they look like."""
    parameters = inspect.signature(make).parameters
    hints = _hints(make)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    arguments: dict[str, Any] = {}
    for key, value in chosen.items():
        if key not in parameters and not takes_any:
            raise ConfigError(f"unknown setting {key} of {target}: {did_you_mean(key, parameters)}")
        hint = hints.get(key)
        if hint is not None and _understood(hint):
            arguments[key] = options.convert(value, hint, name=key)
        else:
            arguments[key] = _literal(value)
    missing = [
        name
        for name, p in list(parameters.items())
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and name not in arguments
        and hints.get(name) is not DataSpec
    ]
    if missing:
        raise ConfigError(f"{target} needs {', '.join(missing)}: --set {missing[0]}=VALUE")
    return arguments


def _hints(make: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of a constructor or function; those that cannot be resolved are left out."""
    try:
        return typing.get_type_hints(make.__init__ if inspect.isclass(make) else make)
    except (NameError, TypeError, AttributeError, SyntaxError):
        return {}


def _understood(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_understood(member) for member in typing.get_args(hint) if member is not type(None))
    if origin is tuple:
        return _understood(typing.get_args(hint)[0])
    return origin is typing.Literal or hint in (bool, int, float, str)


def _literal(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _returns_module(function: Callable[..., Any]) -> bool:
    """Its return annotation, which is all that is looked at, is an nn.Module class."""
    returned = _hints(function).get("return")
    return isinstance(returned, type) and issubclass(returned, nn.Module)


def _what(found: Any) -> str:
    wanted = "no torch.nn.Module, autograd Function or factory of a module"
    if isinstance(found, types.FunctionType):
        return f"a function, and {wanted}; a factory is annotated with what it returns, such as -> nn.Module"
    kind = "the class" if isinstance(found, type) else "a"
    return f"{kind} {found.__name__ if isinstance(found, type) else type(found).__name__}, {wanted}"


def _copy(module: nn.Module, target: str) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise ConfigError(f"{target} cannot be copied, and is not changed itself: {error}") from error


def _with_contract(case: Case, found: Any) -> Case:
    """CTC's backward is by contract the one of log-softmax followed by CTC, so it gets normalised inputs."""
    kind = found if isinstance(found, type) else type(found)
    if not issubclass(kind, nn.CTCLoss):
        return case
    return Case(
        case.name,
        case.build,
        case.inputs,
        before=lambda args: [args[0].log_softmax(-1), *args[1:]],
        note="checked with log-softmax before it: torch defines the gradient of CTC for normalised inputs only",
    )
