"""A GRU as a scan over its steps, so that an exported graph accepts sequences of any length.

torch.export would unroll nn.GRU for the length of the example. B batch, T steps, I input size, H hidden size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def with_scans(model: nn.Module) -> nn.Module:
    """Replaces, in place, each batch-first, unidirectional GRU with biases by a scan that shares its parameters."""
    for name, child in model.named_children():
        if isinstance(child, nn.GRU):
            if child.batch_first and not child.bidirectional and child.bias:
                setattr(model, name, ScannedGRU(child))
        else:
            with_scans(child)
    return model


class ScannedGRU(nn.Module):
    """(B, T, I) input and (layers, B, H) initial state -> (B, T, H) states of the last layer and (layers, B, H) final
    state. For evaluation only: there is no dropout between layers.
    """

    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_ScannedLayer(*gru.all_weights[i]) for i in range(gru.num_layers))
        self.hidden = gru.hidden_size

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if state is None:
            state = x.new_zeros(len(self.layers), x.shape[0], self.hidden)
        after = []
        for i, layer in enumerate(self.layers):
            x, last = layer(x, state[i])
            after.append(last)
        return x, torch.stack(after)


class _ScannedLayer(nn.Module):
    """One GRU layer (Cho et al. 2014, arXiv:1406.1078) in the variant of cuDNN and nn.GRU: the reset gate multiplies
    the matrix product instead of the state."""

    def __init__(self, input_weight: Tensor, state_weight: Tensor, input_bias: Tensor, state_bias: Tensor) -> None:
        super().__init__()
        self.input_weight, self.state_weight = input_weight, state_weight
        self.input_bias, self.state_bias = input_bias, state_bias

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        from torch._higher_order_ops.scan import scan  # imports torch's compiler, which takes seconds

        batch, hidden = x.shape[0], state.shape[1]

        def step(state: Tensor, of_input: Tensor) -> tuple[Tensor, Tensor]:
            # The view does not change the shape, but AOTInductor needs the batch size inside the loop. Weights are read
            # from self: as variables of the outer function they would make torch fix the batch size in a second layer.
            # The loop computes in float32 even with float16 weights: ONNX Runtime crashes on a float16 loop.
            of_state = F.linear(state.view(batch, hidden), self.state_weight.float(), self.state_bias.float())
            input_reset, input_update, input_new = of_input.chunk(3, -1)
            state_reset, state_update, state_new = of_state.chunk(3, -1)
            reset = torch.sigmoid(input_reset + state_reset)
            update = torch.sigmoid(input_update + state_update)
            new = torch.tanh(input_new + reset * state_new)
            state = new + update * (state - new)
            return state, state.clone()  # the two results of a scan step must not be the same tensor

        of_inputs = F.linear(x, self.input_weight, self.input_bias).float().transpose(0, 1)  # (T, B, 3 * H)
        last, states = scan(step, state.float(), of_inputs)
        return states.transpose(0, 1).to(x.dtype), last.to(state.dtype)
