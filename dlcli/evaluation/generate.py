"""Text that goes on from a prompt, character by character."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from dlcli.core.errors import ConfigError
from dlcli.data.text import encode
from dlcli.experiment.restore import Restored


def generate(
    restored: Restored, prompt: str, *, length: int, temperature: float = 1.0, top_k: int = 0, seed: int = 0
) -> Iterator[str]:
    """`length` characters that go on from `prompt`, one by one.

    temperature: 0 takes the likeliest character always. top_k: draw from the k likeliest only; 0 from all.
    Raises ConfigError when the run is no language model, DataError when the prompt has a character that it
    never saw.
    """
    spec, alphabet = restored.preprocessing.spec, restored.preprocessing.alphabet
    if spec.task != "next-token" or not alphabet:
        raise ConfigError(f"{restored.run} is no language model: train one with `dlcli train rnn`")
    if temperature < 0 or top_k < 0 or length < 1:
        raise ConfigError("temperature and top-k must be at least 0, and length at least 1")
    tokens = encode(prompt or "\n", alphabet, "--prompt") if prompt or "\n" in alphabet else [0]
    generator = torch.Generator().manual_seed(seed)
    context, state = torch.tensor([tokens]), None
    recurrent = hasattr(restored.model, "run")
    for _ in range(length):
        if recurrent:  # its state stands for the text so far: it needs the new character only
            output, state = restored.carry_on(context, state)
        else:
            output = restored.answer(context[:, -spec.input_shape[0] :])
        token = _draw(output[0, -1].cpu(), temperature, top_k, generator)
        yield alphabet[token]
        new = torch.tensor([[token]])
        context = new if recurrent else torch.cat([context, new], 1)


def _draw(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    if 0 < top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -math.inf)
    return int(torch.multinomial(torch.softmax(logits / temperature, 0), 1, generator=generator))
