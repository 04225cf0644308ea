"""The case of a user's own `package.module:Name`: a module, a class, a factory, or an autograd Function."""

import copy
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlcli.config.own_code import load
from dlcli.config.settings import TrainConfig
from dlcli.core import options
from dlcli.core.blame import defined
from dlcli.core.errors import ConfigError, did_you_mean
from dlcli.core.spec import DataSpec
from dlcli.experiment.load import read_source
from dlcli.experiment.probe import check_output
from dlcli.gradcheck.inputs import Input, batch_of, parse, targets_of
from dlcli.gradcheck.subject import Case
from dlcli.tasks.choose import choose_task

# Samples per batch.
BATCH = 3


def own_case(
    target: str,
    *,
    inputs: Sequence[str],
    settings: Sequence[str],
    data: str | None = None,
    data_dir: str | None = None,
) -> Case:
    """The case of `package.module:Name`.

    Name may be an nn.Module class, a function whose annotated return type is an nn.Module class, a module, or an
    autograd Function. A class or function is called with `settings`, converted by its annotations. If its first
    argument is a DataSpec, as for `dlcli train`, it gets that of `data`, or one that fits `inputs`.
    Raises ConfigError for anything else, or if settings, inputs or data do not fit the target.
    """
    found = load(target)
    chosen = _parse_settings(settings)
    shapes = tuple(parse(text) for text in inputs)
    if data is not None and shapes:
        raise ConfigError(f"--data {data} determines the inputs of {target}: leave --input out")
    if inspect.isclass(found) and issubclass(found, nn.Module) or _is_factory(found):
        return _constructed(target, found, chosen, shapes, data=data, data_dir=data_dir)
    if data is not None:
        raise ConfigError(f"{target} takes no DataSpec, so --data {data} has no effect: give --input")
    if isinstance(found, nn.Module):
        if chosen:
            raise ConfigError(f"{target} is a module that is built already: --set {next(iter(chosen))} has no effect")
        make: Callable[[], nn.Module] = lambda: _copy(found, target)  # noqa: E731
    elif isinstance(found, type) and issubclass(found, torch.autograd.Function):
        if chosen:
            raise ConfigError(f"{target} is an autograd Function: it has no constructor for --set")
        make = lambda: Applied(found)  # noqa: E731
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
    target: str,
    make: Callable[..., nn.Module],
    chosen: dict[str, str],
    shapes: tuple[Input, ...],
    *,
    data: str | None,
    data_dir: str | None,
) -> Case:
    first = _spec_argument(make, chosen, data=data)
    spec = None
    if first is not None and data is not None:
        spec = _spec_of_data(target, chosen, data=data, data_dir=data_dir)
        shapes = (batch_of(spec, BATCH),)
    elif first is not None and shapes:
        spec = _spec_of_input(chosen, shapes[0])
    elif first is not None:
        raise ConfigError(
            f"{target} needs to know its data: --data digits (or another data set, or your own package.module:name), "
            "or the shape of a batch, --input 3,1,8,8"
        )
    elif data is not None:
        raise ConfigError(f"{target} takes no DataSpec as its first argument: give --input in place of --data {data}")
    arguments = _convert(target, make, chosen, leave=first)
    _need_inputs(target, shapes)

    def build() -> nn.Module:
        built = make(*([spec] if spec else []), **arguments)
        if not isinstance(built, nn.Module):
            raise ConfigError(f"{target} is annotated to return a module, but returned a {type(built).__name__}")
        return built

    if spec is None:
        return _with_contract(Case(target, build, shapes), make)
    samples, task, place = shapes[0].shape[0], choose_task(spec), defined(getattr(make, "forward", None))

    def loss(output: Any, target_values: Tensor) -> Tensor:
        check_output(output, spec, samples, name=target, data=data or "the data", place=place)
        return task.loss(output, target_values)

    return Case(target, build, shapes, label=targets_of(spec, samples), loss=loss)


def _spec_argument(make: Callable[..., nn.Module], chosen: Mapping[str, str], *, data: str | None) -> str | None:
    """The name of the first argument if it takes a DataSpec: by its annotation, or, without one, because it is named
    `spec` or `data` is given; else None."""
    first = next(iter(inspect.signature(make).parameters.values()), None)
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        return None
    if _hints(make).get(first.name) is DataSpec:
        return first.name
    bare = first.annotation is first.empty and first.default is first.empty and first.name not in chosen
    return first.name if bare and (first.name == "spec" or data is not None) else None


def _spec_of_data(target: str, chosen: dict[str, str], *, data: str, data_dir: str | None) -> DataSpec:
    """The DataSpec of a data set; its options, `--set data.NAME=VALUE`, are removed from `chosen`."""
    given = {name: chosen.pop(name) for name in list(chosen) if name.startswith("data.")}
    data_options = {name.removeprefix("data."): value for name, value in given.items()}
    return read_source(TrainConfig(model=target, data=data, data_options=data_options, data_dir=data_dir)).spec


def _spec_of_input(chosen: dict[str, str], x: Input) -> DataSpec:
    """A DataSpec that fits a batch `x`; `--set spec.task=` and `spec.outputs=`, removed from `chosen`, change it."""
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


def _convert(target: str, make: Callable[..., Any], chosen: Mapping[str, str], *, leave: str | None) -> dict[str, Any]:
    """The texts in `chosen`, converted by the annotations of the constructor; an argument without a supported
    annotation becomes the number, true, false, none or text that it looks like.

    leave: the argument that is not to be set. ConfigError for an unknown or missing argument.
    """
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
        and name != leave
    ]
    if missing:
        raise ConfigError(f"{target} needs {', '.join(missing)}: --set {missing[0]}=VALUE")
    return arguments


def _hints(make: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a constructor or function; empty if they cannot be resolved."""
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


def _is_factory(found: Any) -> bool:
    """Whether it is a function whose return annotation is an nn.Module class."""
    returned = _hints(found).get("return") if isinstance(found, types.FunctionType) else None
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
        raise ConfigError(f"{target} cannot be copied, and the original must not change: {error}") from error


def _with_contract(case: Case, found: Any) -> Case:
    """For CTCLoss, apply log-softmax to the inputs first: its backward is defined for normalised inputs only."""
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
