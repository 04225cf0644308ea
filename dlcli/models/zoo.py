"""The classification models of torchvision, looked up in its registry and built for the data at hand.

`zoo:resnet18` is a function (spec, *, options) -> torchvision's own module, whose parameters keep torchvision's names.
Auxiliary heads (GoogLeNet, Inception v3) are left out, and the input is not transformed a second time (their
`transform_input`). What is adapted: the number of classes, the channels of the first convolution, and where the model
has to know it, the size of the image.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torchvision
from torch import nn
from torchvision import models
from torchvision.models.mnasnet import MNASNet

from dlcli.core.errors import ConfigError, did_you_mean, nearest
from dlcli.core.spec import DataSpec
from dlcli.core.zoo import zoo_model
from dlcli.models.blocks import first_convolution, for_channels, need_image

# Family -> the names of its head's parameters. Swin's is the module `head`, which is its last one.
_HEADS = {
    "AlexNet": "classifier.6", "ConvNeXt": "classifier.2", "DenseNet": "classifier", "EfficientNet": "classifier.1",
    "GoogLeNet": "fc", "Inception3": "fc", "MaxVit": "classifier.5", "MNASNet": "classifier.1",
    "MobileNetV2": "classifier.1", "MobileNetV3": "classifier.3", "RegNet": "fc", "ResNet": "fc", "ShuffleNetV2": "fc",
    "SqueezeNet": "classifier.1", "VGG": "classifier.6", "VisionTransformer": "heads.head",
}  # fmt: skip

# Family -> the module whose children are its stages; of the others they are found without it (parts.py).
_BLOCKS = {
    "MaxVit": "blocks", "RegNet": "trunk_output", "SwinTransformer": "features", "VisionTransformer": "encoder.layers",
}  # fmt: skip

_OWN = float | None  # none: what torchvision's function of this name sets
_WIDTH = {"width_mult": (float, 1.0), "dropout": (float, 0.2)}

# Family -> option -> its type and default. What torchvision's functions of this family accept and that is a number.
_OPTIONS: dict[str, dict[str, tuple[Any, Any]]] = {
    "AlexNet": {"dropout": (float, 0.5)},
    "ConvNeXt": {"stochastic_depth_prob": (_OWN, None), "layer_scale": (float, 1e-6)},
    "DenseNet": {"drop_rate": (float, 0.0), "memory_efficient": (bool, False)},
    "EfficientNet": {"dropout": (_OWN, None), "stochastic_depth_prob": (float, 0.2)},
    "GoogLeNet": {"dropout": (float, 0.2)},
    "Inception3": {"dropout": (float, 0.5)},
    "MNASNet": {"dropout": (float, 0.2)},
    "MobileNetV2": _WIDTH,
    "MobileNetV3": _WIDTH,
    "ResNet": {"stem": (Literal["standard", "small"], "standard"), "zero_init_residual": (bool, False)},
    "SqueezeNet": {"dropout": (float, 0.5)},
    "SwinTransformer": {"dropout": (float, 0.0), "attention_dropout": (float, 0.0)},
    "VGG": {"dropout": (float, 0.5)},
    "VisionTransformer": {"dropout": (float, 0.0), "attention_dropout": (float, 0.0)},
}

# Family -> arguments without which it would not be what the top of this file says.
_ALWAYS: dict[str, dict[str, Any]] = {
    "GoogLeNet": {"aux_logits": False, "transform_input": False, "init_weights": True},
    "Inception3": {"aux_logits": False, "transform_input": False, "init_weights": True},
}


class _LoadedMNASNet(MNASNet):
    """Takes weights that carry no version number as those of the current one; torchvision refuses them."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *others: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, {"version": 2, **local_metadata}, *others)


def __getattr__(name: str) -> Callable[..., nn.Module]:
    if name.startswith("_"):
        raise AttributeError(name)
    return builder(name)


def builder(name: str) -> Callable[..., nn.Module]:
    """The function that builds a model of torchvision; ConfigError if torchvision has none of this name."""
    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(f"torchvision {torchvision.__version__} has no model {name!r}: {_meant(name, known)}")
    options = _OPTIONS.get(family(name), {})

    def build(spec: DataSpec, **chosen: Any) -> nn.Module:
        _check(name, spec, chosen)
        return unchecked(name, spec, chosen)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"torchvision's {name}, built for the data of `spec`: (B, C, H, W) -> (B, outputs)."
    first = inspect.Parameter("spec", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=DataSpec)
    own = [
        inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for option, (kind, default) in options.items()
    ]
    build.__signature__ = inspect.Signature([first, *own])  # type: ignore[attr-defined]
    build.__annotations__ = {"spec": DataSpec, **{option: kind for option, (kind, _) in options.items()}}
    return build


def _meant(name: str, known: Sequence[str]) -> str:
    return did_you_mean(name, known) if nearest(name, known) else "`dlcli models --zoo` lists those that it has"


def family(name: str) -> str:
    """The name of the class that torchvision's function of this name returns."""
    returned = inspect.signature(models.get_model_builder(name)).return_annotation
    return str(getattr(returned, "__name__", returned))


def weights_url(name: str, entry: str) -> str:
    """Where the published weights of this entry are."""
    return str(models.get_model_weights(name)[entry].url)


def unchecked(name: str, spec: DataSpec, chosen: Mapping[str, Any]) -> nn.Module:
    """The model, without a check of its options and of the size of the images."""
    kind = family(name)
    given = {option: value for option, value in chosen.items() if value is not None and option != "stem"}
    sizes: dict[str, Any] = {}
    if kind == "VisionTransformer":
        sizes["image_size"] = spec.input_shape[1]
    elif kind == "MaxVit":
        sizes["input_size"] = spec.input_shape[1:]
    made: nn.Module = models.get_model_builder(name)(
        num_classes=spec.outputs, **_ALWAYS.get(kind, {}), **sizes, **given
    )
    if kind == "MNASNet":
        made.__class__ = _LoadedMNASNet
    if chosen.get("stem") == "small":
        _make_stem_small(made)
    if spec.input_shape[0] != 3:
        _take_channels(made, spec.input_shape[0])
    if kind in _HEADS:
        made.head = (_HEADS[kind],)  # type: ignore[assignment]
    if kind in _BLOCKS:
        made.stages = tuple(_stages(made, _BLOCKS[kind]))  # type: ignore[assignment]
    return made


def _stages(module: nn.Module, blocks: str) -> list[str]:
    """The children that have parameters, with those of the module `blocks` in its place."""
    found: list[str] = []
    opened, _, rest = blocks.partition(".")
    for name, child in module.named_children():
        if next(child.parameters(), None) is not None:
            inner = _stages(child, rest) if name == opened else []
            found += [f"{name}.{part}" for part in inner] or [name]
    return found


def _take_channels(model: nn.Module, channels: int) -> None:
    found = first_convolution(model)
    assert found is not None
    name, first = found
    owner, _, attribute = name.rpartition(".")
    bias = first.bias is not None
    made = nn.Conv2d(
        channels, first.out_channels, first.kernel_size, first.stride, first.padding, bias=bias,  # type: ignore[arg-type]
        device=first.weight.device,
    )  # fmt: skip
    with torch.no_grad():
        made.weight.copy_(for_channels(first.weight, channels))
        if first.bias is not None and made.bias is not None:
            made.bias.copy_(first.bias)
    setattr(model.get_submodule(owner), attribute, made)


def _make_stem_small(model: Any) -> None:
    """For images of about 32 pixels, as in He et al. 2016, section 4.2: a 3x3 convolution with stride 1, no pooling."""
    old = model.conv1
    model.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()


def check_size(name: str, height: int, width: int, *, small_stem: bool, told: str) -> None:
    """ConfigError for images, in pixels, that the model cannot be built for. told: what the images are said to be."""
    known = zoo_model(name)
    least, multiple = (1, 1) if known is None else (1 if small_stem else known.least, known.multiple)
    if min(height, width) < least:
        raise ConfigError(f"model {name} needs images of at least {least} pixels, but {told}")
    if height % multiple or width % multiple or (multiple > 1 and height != width):
        below = max(least, min(height, width) // multiple * multiple)
        raise ConfigError(
            f"model {name} needs square images whose size is a multiple of {multiple} pixels, but {told}: "
            f"take --image-size {below}"
        )


def _check(name: str, spec: DataSpec, chosen: Mapping[str, Any]) -> None:
    """ConfigError for options out of range, and for data that the model cannot be built for."""
    height, width = need_image(name, spec, shortest=1)
    check_size(name, height, width, small_stem=chosen.get("stem") == "small", told=f"the data is {spec}")
    for option, value in chosen.items():
        if value is None or isinstance(value, bool | str):
            continue
        if option in ("width_mult", "layer_scale"):
            if not 0 < value <= 16:
                raise ConfigError(f"model.{option} = {value} is out of range: it must be in (0, 16]")
        elif not 0 <= value < 1:
            raise ConfigError(f"model.{option} = {value} is out of range: it must be in [0, 1)")
