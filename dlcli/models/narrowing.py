"""A model made as narrow as given tensors: what is left of it when channels and heads have been cut out."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from dlcli.models.blocks import SelfAttention

Shape = tuple[int, ...]


def narrow(model: nn.Module, shapes: Mapping[str, Shape]) -> None:
    """Make the layers of `model` as narrow as tensors of these shapes, in place, and keep the first of the values.

    shapes: of tensors by their names in the state of the model. Convolutions (of one group, or depthwise), linear
    layers, batch normalizations, embeddings, GRUs and the heads of SelfAttention become narrower; the width of a head
    stays. What is not named, larger than it is, or of another kind of layer stays as it is.
    """
    made: dict[int, nn.Parameter] = {}  # a parameter that two layers share stays one
    for prefix, module in model.named_modules():
        if not is_narrowable(module):
            continue
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            wanted = shapes.get(f"{prefix}.{name}" if prefix else name)
            if tensor is None or wanted is None or not _fits_in(wanted, tuple(tensor.shape)):
                continue
            if isinstance(module, nn.Embedding) and wanted[0] != len(tensor):  # as many rows as there are tokens
                continue
            part = tensor.detach()[tuple(slice(size) for size in wanted)].clone()
            if isinstance(tensor, nn.Parameter):
                part = made.setdefault(id(tensor), nn.Parameter(part, requires_grad=tensor.requires_grad))
            setattr(module, name, part)
        _tell_sizes(module)
    for module in model.modules():
        if isinstance(module, SelfAttention):
            module.heads = max(1, module.query.out_features // module.head_width)


def is_narrowable(module: nn.Module) -> bool:
    """Whether the layer is of a kind that `narrow` knows."""
    if isinstance(module, nn.GRU):
        return module.batch_first and not module.bidirectional and not module.proj_size
    if isinstance(module, _BatchNorm):
        return True
    if not isinstance(module._parameters.get("weight"), Tensor):  # one that is computed, as by weight_norm
        return False
    if isinstance(module, nn.modules.conv._ConvNd):
        return not isinstance(module, _ConvTransposeNd) and (module.groups == 1 or is_depthwise(module))
    return isinstance(module, nn.Linear | nn.Embedding)


def is_depthwise(module: nn.Module) -> bool:
    """Whether it is a convolution that makes one output of each input alone."""
    return (
        isinstance(module, nn.modules.conv._ConvNd)
        and module.groups == module.in_channels == module.out_channels
        and module.groups > 1
    )


def _fits_in(wanted: Shape, size: Shape) -> bool:
    return len(wanted) == len(size) and all(0 < a <= b for a, b in zip(wanted, size, strict=True)) and wanted != size


def _tell_sizes(module: nn.Module) -> None:
    """Set the attributes of a layer to the sizes of its tensors."""
    if isinstance(module, nn.modules.conv._ConvNd):
        depthwise = is_depthwise(module)
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.out_channels if depthwise else module.weight.shape[1]
        module.groups = module.out_channels if depthwise else 1
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.GRU):
        module.input_size, module.hidden_size = (len(module.all_weights[0][n][0]) for n in (0, 1))
    elif isinstance(module, _BatchNorm):
        known = module.weight if module.weight is not None else module.running_mean
        module.num_features = module.num_features if known is None else len(known)
