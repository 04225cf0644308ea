"""A model as the tree of its modules: what each gives, its parameters and its operations, of one sample."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import torch
from torch import Tensor, nn

from dlcli.analysis.profile.counting import Counting
from dlcli.analysis.profile.ledger import Ledger, Owner
from dlcli.analysis.profile.modules import Modules
from dlcli.config.schemes import listed_model, zoo_name
from dlcli.config.settings import TrainConfig
from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec
from dlcli.data.kinds import sample_input
from dlcli.experiment.guard import build_model
from dlcli.experiment.load import read_source

_ZOO_SIZE, _ZOO_CLASSES = 224, 1000


@dataclass(frozen=True)
class Layer:
    """A module of a model. name: its path; the model itself has the name of the model. depth: 0 for the model.

    output: the shape of what it gives for one sample, without the dimension of the batch; None if it is not called, or
    gives no tensor. parameters, flops: of all that is in it, the latter of one sample in one forward pass.
    """

    name: str
    kind: str
    depth: int
    output: tuple[int, ...] | None
    parameters: int
    flops: int

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "output": None if self.output is None else list(self.output)}


def outline_of(name: str) -> tuple[tuple[int, ...], list[Layer]]:
    """The shape of a sample, and the layers in the order of the model, each before what is in it.

    Of a model of a zoo with its own image size and 1000 classes, without memory for its weights; of any other with its
    default data. Raises what building it raises, and ConfigError for one that cannot be called with a sample.
    """
    config = TrainConfig(name)
    if zoo_name(name) is not None:
        known = listed_model(name)
        size = _ZOO_SIZE if known is None else known.size
        spec = DataSpec("multiclass", "image", (3, size, size), _ZOO_CLASSES)
        with torch.device("meta"):
            model = build_model(config, spec)
    else:
        spec = read_source(config).spec
        model = build_model(config, spec)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return spec.input_shape, outline(model, sample_input(spec, 1).to(device), name=name)


@torch.no_grad()
def outline(model: nn.Module, x: Tensor, *, name: str) -> list[Layer]:
    """See `outline_of`. x: (1, ...) an input."""
    ledger = Ledger(lambda: None)
    modules = Modules(model, ledger, name=name)
    outputs: dict[str, tuple[int, ...]] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, Tensor):
            outputs[modules.names[module]] = tuple(first.shape[1:])

    was_training = model.training
    model.eval()
    with _noting(model, note), Counting(ledger) as counting:
        modules.attach()
        try:
            ledger.turn(Owner("forward"))
            model(x)
        except Exception as error:
            told = " ".join(str(error).split())[:200]
            raise ConfigError(f"model {name} cannot be called with a sample: {type(error).__name__}: {told}") from error
        finally:
            ledger.turn(None)
            modules.detach()
            model.train(was_training)
    own = {owner.module: work.flops for owner, work in counting.work.items()}
    layers = []
    for path, module in model.named_modules():
        inside = [n for n in modules.names.values() if not path or n == path or n.startswith(f"{path}.")]
        layers.append(
            Layer(
                name=path or name,
                kind=type(module).__name__,
                depth=path.count(".") + 1 if path else 0,
                output=outputs.get(path or name),
                parameters=sum(p.numel() for p in module.parameters()),
                flops=sum(own.get(n, 0) for n in inside),
            )
        )
    return layers


@contextlib.contextmanager
def _noting(model: nn.Module, note: Any) -> Iterator[None]:
    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def mermaid(layers: list[Layer]) -> str:
    """The tree as a flowchart of Mermaid, which GitHub and GitLab draw in Markdown."""
    lines, open_ = ["flowchart LR"], list[int]()
    for number, layer in enumerate(layers):
        about = [escape(layer.name), escape(layer.kind), shown(layer.output)]
        about += [f"{layer.parameters:,} parameters"] if layer.parameters else []
        lines.append(f'    n{number}["{"<br/>".join(about)}"]')
        del open_[layer.depth :]
        if open_:
            lines.append(f"    n{open_[-1]} --> n{number}")
        open_.append(number)
    return "\n".join(lines) + "\n"


def shown(shape: tuple[int, ...] | None) -> str:
    """`32x8x8`"""
    return "-" if shape is None else "x".join(map(str, shape)) or "a number"
