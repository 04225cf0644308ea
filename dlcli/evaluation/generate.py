"""Text generation: continues a prompt token by token."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dlcli.config.ranges import check_range
from dlcli.core.errors import ConfigError
from dlcli.data.texts.spelling import Spelling, told
from dlcli.experiment.restore import Restored

_log = logging.getLogger(__name__)

# Range of temperatures by which float32 logits can be divided.
_COLDEST, _HOTTEST = 1e-6, 1e6


def generate(
    restored: Restored,
    prompt: str,
    *,
    length: int,
    temperature: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    tell: Callable[[str], None] = _log.warning,
) -> Iterator[str]:
    """`length` characters that continue `prompt`, in parts of at least one, or fewer if the model ends the document.

    temperature: 0 always chooses the likeliest token. top_k: draw only from the k likeliest; 0 draws from all.
    tell: called with a sentence about what is in the prompt and not in the training text.
    Raises ConfigError at once, not at the first character, if the run is no language model or a setting is out of
    range.
    """
    spelling = restored.preprocessing.spelling
    if spelling is None:
        raise ConfigError(f"{restored.run} is no language model: train one with `dlcli train rnn`")
    check_range(length, ">= 1", name="length")
    check_range(top_k, ">= 0", name="top_k")
    check_range(seed, f"[0, {2**64})", name="seed")
    if temperature != 0 and not _COLDEST <= temperature <= _HOTTEST:
        raise ConfigError(
            f"temperature = {temperature} is out of range: it must be 0, or from {_COLDEST} to {_HOTTEST:g}"
        )
    tokens = _beginning(spelling, prompt, tell)
    generator = torch.Generator().manual_seed(seed)
    found = _tokens(restored, tokens, lambda logits: _draw(logits, temperature, top_k, generator))
    return _cut(_texts(spelling, found), length)


def _beginning(spelling: Spelling, prompt: str, tell: Callable[[str], None]) -> list[int]:
    """The tokens of the prompt; without one, those of the beginning of a document or a line."""
    spelled = spelling.encode(prompt)
    if spelled.unknown:
        left = "; they are left out" if spelled.lost else ""
        tell(f"--prompt: {told(spelling.unit, spelled.unknown)}{left}")
    if len(spelled.tokens):
        return [int(token) for token in spelled.tokens]
    if spelling.separator is not None:
        return [spelling.separator]
    line_end = spelling.encode("\n")
    return [0] if line_end.unknown else [int(token) for token in line_end.tokens]


def _tokens(restored: Restored, tokens: Sequence[int], draw: Callable[[Tensor], int]) -> Iterator[int]:
    """One after the other, without end."""
    steps = restored.preprocessing.spec.input_shape[0]
    context, state = torch.tensor([tokens]), None
    recurrent = hasattr(restored.model, "run")
    while True:
        if recurrent:  # its state represents the text so far: only the new token is needed
            output, state = restored.carry_on(context, state)
        else:
            context = context[:, -steps:]
            output = restored.answer(context)
        token = draw(output[0, -1].cpu())
        yield token
        new = torch.tensor([[token]])
        context = new if recurrent else torch.cat([context, new], 1)


def _texts(spelling: Spelling, tokens: Iterator[int]) -> Iterator[str]:
    """What is complete after each token, up to the end of the document."""
    reader = spelling.reader()
    for token in tokens:
        if token == spelling.separator:
            yield reader.rest()
            return
        yield reader.read(token)


def _cut(texts: Iterator[str], length: int) -> Iterator[str]:
    """The first `length` characters, without empty parts."""
    for text in texts:
        if text:
            yield text[:length]
        length -= len(text)
        if length <= 0:
            return


def _draw(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    if 0 < top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -math.inf)
    return int(torch.multinomial(torch.softmax(logits / temperature, 0), 1, generator=generator))
