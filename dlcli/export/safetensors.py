"""Format safetensors: the weights under the model's names; the header holds what is needed to rebuild the model."""

from collections.abc import Mapping

import torch
from torch import Tensor


def write(weights: Mapping[str, Tensor], metadata: Mapping[str, str], *, dtype: torch.dtype) -> bytes:
    from safetensors.torch import save

    stored = {
        name: t.detach().cpu().to(dtype if t.is_floating_point() else t.dtype).contiguous()
        for name, t in weights.items()
    }
    return save(stored, metadata=dict(metadata))


def runtime_version() -> str:
    import safetensors

    return safetensors.__version__
