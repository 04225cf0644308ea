"""The models of timm (PyTorch Image Models), which the extra `dlcli[timm]` installs, built for the data at hand.

`timm_zoo:resnet18` is a function (spec, *, options) -> timm's own module, without its pretrained weights.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from dlcli.core.errors import ConfigError, did_you_mean
from dlcli.core.spec import DataSpec
from dlcli.models.blocks import need_image


def __getattr__(name: str) -> Callable[..., nn.Module]:
    if name.startswith("_"):
        raise AttributeError(name)
    return builder(name)


def builder(name: str) -> Callable[..., nn.Module]:
    """The function that builds a model of timm; ConfigError if timm is not installed, or has none of this name."""
    try:
        import timm
    except ImportError:
        raise ConfigError(f"model timm:{name} needs timm: pip install 'dlcli[timm]'") from None
    if not timm.is_model(name):
        raise ConfigError(f"timm {timm.__version__} has no model {name!r}: {did_you_mean(name, timm.list_models())}")

    def build(spec: DataSpec, *, drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> nn.Module:
        """drop_rate: dropout before the head. drop_path_rate: of stochastic depth, where the model has it."""
        need_image(f"timm:{name}", spec, shortest=1)
        channels, *size = spec.input_shape
        chosen: dict[str, Any] = {"drop_rate": drop_rate} | (
            {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
        )
        if timm.get_pretrained_cfg(name).fixed_input_size:
            chosen["img_size"] = tuple(size)
        made: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=spec.outputs, in_chans=channels, **chosen
        )
        classifier = made.pretrained_cfg.get("classifier")  # type: ignore[union-attr, operator]
        if isinstance(classifier, str) and not isinstance(getattr(made, "head", None), nn.Module):
            made.head = (classifier,)  # type: ignore[assignment]
        return made

    build.__name__ = build.__qualname__ = name
    return build
