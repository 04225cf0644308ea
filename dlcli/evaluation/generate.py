"""Text generation: continues a prompt character by character."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dlcli.config.ranges import check_range
from dlcli.core.errors import ConfigError
from dlcli.data.text import encode
from dlcli.experiment.restore import Restored

# Range of temperatures by which float32 logits can be divided.
_COLDEST, _HOTTEST = 1e-6, 1e6


def generate(
    restored: Restored, prompt: str, *, length: int, temperature: float = 1.0, top_k: int = 0, seed: int = 0
) -> Iterator[str]:
    """`length` characters that continue `prompt`, one by one.

    temperature: 0 always chooses the likeliest character. top_k: draw only from the k likeliest; 0 draws from all.
    Raises at once, not at the first character: ConfigError if the run is no language model or a setting is out of
    range, DataError if the prompt has a character that is not in the training text.
    """
    spec, alphabet = restored.preprocessing.spec, restored.preprocessing.alphabet
    if spec.task != "next-token" or not alphabet:
        raise ConfigError(f"{restored.run} is no language model: train one with `dlcli train rnn`")
    check_range(length, ">= 1", name="length")
    check_range(top_k, ">= 0", name="top_k")
    check_range(seed, f"[0, {2**64})", name="seed")
    if temperature != 0 and not _COLDEST <= temperature <= _HOTTEST:
        raise ConfigError(
            f"temperature = {temperature} is out of range: it must be 0, or from {_COLDEST} to {_HOTTEST:g}"
        )
    tokens = encode(prompt or "\n", alphabet, "--prompt") if prompt or "\n" in alphabet else [0]
    generator = torch.Generator().manual_seed(seed)
    return _characters(restored, tokens, length, lambda logits: _draw(logits, temperature, top_k, generator))


def _characters(restored: Restored, tokens: Sequence[int], length: int, draw: Callable[[Tensor], int]) -> Iterator[str]:
    spec, alphabet = restored.preprocessing.spec, restored.preprocessing.alphabet
    context, state = torch.tensor([tokens]), None
    recurrent = hasattr(restored.model, "run")
    for _ in range(length):
        if recurrent:  # its state represents the text so far: only the new character is needed
            output, state = restored.carry_on(context, state)
        else:
            output = restored.answer(context[:, -spec.input_shape[0] :])
        token = draw(output[0, -1].cpu())
        yield alphabet[token]
        new = torch.tensor([[token]])
        context = new if recurrent else torch.cat([context, new], 1)


def _draw(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    if 0 < top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -math.inf)
    return int(torch.multinomial(torch.softmax(logits / temperature, 0), 1, generator=generator))
