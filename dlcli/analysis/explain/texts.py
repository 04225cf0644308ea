"""What each token of a text adds to the answer: integrated gradients over the vectors of the tokens."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlcli.analysis.explain.inputs import Sample
from dlcli.analysis.explain.parts import Part, Parts
from dlcli.analysis.explain.path import integrated_gradients
from dlcli.analysis.explain.subject import Subject, answer_of, recording
from dlcli.core.errors import ConfigError, DataError
from dlcli.data.kinds import without_padding
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.readers.text import STDIN, read_any_text
from dlcli.data.texts.characters import refuse_lost
from dlcli.data.texts.tokens import FIRST, PADDING


def token_names(about: Preprocessing, tokens: Sequence[int]) -> list[str]:
    """The characters, words or pieces of words; `?` for what the training texts did not have; numbers if tokens have no
    names."""
    if about.tokens is not None:
        known = about.tokens.vocabulary
        return ["" if t == PADDING else known[t - FIRST] if t >= FIRST else "?" for t in tokens]
    return [about.spelling.names[t] if about.spelling else str(t) for t in tokens]


def prompts(subject: Subject, inputs: Sequence[str], *, tell: Callable[[str], None]) -> list[Sample]:
    """Texts for a language model: files, `-` for standard input, or the texts themselves; of each the last tokens that
    the model reads. tell: called with a sentence about a file that is not UTF-8. DataError (exit 3) for characters that
    have no token."""
    spelling, steps, found = subject.about.spelling, subject.spec.input_shape[0], []
    if spelling is None:
        raise ConfigError(f"{subject.run} has no characters: name --samples of its own data")
    for given in inputs:
        path = STDIN if given == "-" else Path(given)
        try:
            is_file = given == "-" or path.is_file()
        except (OSError, ValueError):  # too long for a name, or a NUL in it: a text
            is_file = False
        text, is_known = read_any_text(path, streams=True, control=True) if is_file else (given, True)
        if not is_known:
            tell(f"{path} is read as latin-1, since it is not UTF-8")
        spelled = spelling.encode(text)
        name = str(path) if is_file else given[:40]
        refuse_lost(spelled, name)
        tokens = spelled.tokens.tolist()
        if not tokens:
            raise DataError("an input is empty: give a text or a file")
        found.append(Sample(name, torch.tensor([tokens[-steps:]], device=subject.device)))
    return found


def explain_texts(subject: Subject, samples: Sequence[Sample], *, class_name: str | None) -> list[Parts]:
    """Against vectors of zeros in the places of all tokens; of a language model, for the character after the text.
    ConfigError (exit 2) for a model without an nn.Embedding that gets the tokens."""
    number, found = subject.number(class_name), []
    for sample in samples:
        tokens = without_padding(sample.x, subject.spec)
        name, vectors = _embedded(subject, tokens)
        answer = answer_of(subject, tokens, number)
        attributions = integrated_gradients(
            vectors,
            torch.zeros_like(vectors),
            gradient=partial(_gradient, subject, tokens, name, answer.number),
            score=partial(_scores, subject, tokens, name, answer.number),
        )
        sums = _of_tokens(subject.model, attributions.values.sum(1), tokens.shape[1])
        names = token_names(subject.about, tokens[0].tolist())
        parts = [Part(str(k), token, float(value)) for k, (token, value) in enumerate(zip(names, sums, strict=True))]
        found.append(Parts(sample, answer, attributions, parts))
    return found


@torch.no_grad()
def _embedded(subject: Subject, tokens: Tensor) -> tuple[str, Tensor]:
    """The name of the nn.Embedding of the tokens (1, T), or of n-grams of them, and the vectors (N, D) it gives."""
    found: list[tuple[str, Tensor]] = []
    hooks = []
    for name, module in subject.model.named_modules():
        if isinstance(module, nn.Embedding):

            def hear(each: nn.Module, given: tuple[Any, ...], output: Tensor, name: str = name) -> None:
                if hasattr(subject.model, "spans") or (given and torch.equal(given[0], tokens)):
                    found.append((name, output[0].detach().clone()))

            hooks.append(module.register_forward_hook(hear))
    try:
        subject.output(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    if len(found) != 1:
        raise ConfigError(
            f"explain of texts needs a model that gives its tokens to one nn.Embedding, and {subject.run} "
            f"({subject.name}) gives them to {len(found) or 'none'}"
        )
    return found[0]


def _with_vectors(subject: Subject, tokens: Tensor, name: str, number: int, points: Tensor) -> Tensor:
    """(n,) scores of the tokens (1, T), with the vectors (n, N, D) in the place of those of the embedding."""
    hook = subject.model.get_submodule(name).register_forward_hook(lambda *heard: points.clone())
    try:
        return subject.scores(tokens.expand(len(points), -1), number)
    finally:
        hook.remove()


def _gradient(subject: Subject, tokens: Tensor, name: str, number: int, points: Tensor) -> Tensor:
    leaf = points.detach().clone().requires_grad_()
    with recording():
        (found,) = torch.autograd.grad(_with_vectors(subject, tokens, name, number, leaf).sum(), leaf)
    return found


@torch.no_grad()
def _scores(subject: Subject, tokens: Tensor, name: str, number: int, points: Tensor) -> Tensor:
    return _with_vectors(subject, tokens, name, number, points).double()


def _of_tokens(model: nn.Module, values: Tensor, steps: int) -> list[float]:
    """Of vectors of n-grams, equal shares for their tokens; else one value for each token already."""
    spans: Callable[[int], list[tuple[int, int]]] | None = getattr(model, "spans", None)
    if spans is None:
        return [float(value) for value in values]
    found = [0.0] * steps
    for (start, length), value in zip(spans(steps), values.tolist(), strict=True):
        for place in range(start, min(start + length, steps)):
            found[place] += value / length
    return found
