"""`dlcli explain` of texts: tokens against captum, attention against torch's own, language models."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from dlcli.analysis.explain.attention import attention_maps
from dlcli.analysis.explain.inputs import Sample
from dlcli.analysis.explain.subject import Subject
from dlcli.analysis.explain.texts import explain_texts
from dlcli.cli.main import app
from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec
from dlcli.data.preprocessing import Preprocessing
from dlcli.experiment.restore import restore
from dlcli.models.blocks import SelfAttention
from dlcli.runs.run import Run
from dlcli.tasks.choose import choose_task
from tests.test_explain_tables import document, explain


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs: 1 ngrams and 2 an rnn on good and bad films, 3 attention on them, 4 attention and 5 an rnn as language
    models."""
    root = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    good, bad, rest = ["good", "great", "fine"], ["bad", "poor", "awful"], ["the", "film", "was", "a", "show"]
    lines = ["text,label"]
    for _ in range(300):
        is_good = rng.integers(0, 2)
        words = [str(rng.choice(good if is_good else bad)), *map(str, rng.choice(rest, rng.integers(2, 6)))]
        lines.append(f"{' '.join(rng.permutation(words))},{'pos' if is_good else 'neg'}")
    (root / "t.csv").write_text("\n".join(lines) + "\n")
    (root / "s.txt").write_text("to be or not to be\n" * 60)
    films = ["--data", f"texts:{root / 't.csv'}", "--target", "label", "--set", "data.text=text"]
    prose = ["--data", f"text:{root / 's.txt'}", "--set", "data.length=8", "--epochs", "3"]
    for words in (
        ["ngrams", *films, "--epochs", "10", "--set", "model.buckets=5000"],
        ["rnn", *films, "--epochs", "8", "--set", "data.tokens=words", "--set", "model.hidden=16"],
        ["attention", *films, "--epochs", "1", "--set", "data.tokens=words", "--set", "model.width=16"],
        ["attention", *prose, "--set", "model.width=16", "--set", "model.layers=2"],
        ["rnn", *prose, "--set", "model.hidden=32", "--lr", "0.02"],
    ):
        words = ["train", *words, "--device", "cpu", "--quiet", "--runs-dir", str(root / "runs")]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    return root


@pytest.mark.parametrize("run", [2, 3])
def test_tokens_are_captums(root: Path, run: int) -> None:
    theirs = pytest.importorskip("captum.attr", reason="captum is not installed: pip install 'dlcli[dev]'")
    (ours,) = document(root, str(run), "good the film was awful", "--class", "pos")["inputs"]
    assert [each["token"] for each in ours["tokens"]] == ["good", "the", "film", "was", "awful"]
    subject = Subject.of(restore(Run(root / "runs", run)))
    tokens = subject.about.tokens
    assert tokens is not None
    x = torch.from_numpy(tokens.encode(["good the film was awful"]).rows).long()[:, :5]
    model: Any = subject.model
    vectors = model.embedding(x)

    def of_vectors(vectors: Tensor) -> Tensor:
        hook = model.embedding.register_forward_hook(lambda *heard: vectors)
        try:
            return subject.scores(x.expand(len(vectors), -1), 1)
        finally:
            hook.remove()

    found = theirs.IntegratedGradients(of_vectors).attribute(
        vectors, torch.zeros_like(vectors), n_steps=400, internal_batch_size=None
    )
    expected = found.sum(2)[0].tolist()
    assert [each["attribution"] for each in ours["tokens"]] == pytest.approx(
        expected, rel=0.02, abs=0.01 * max(map(abs, expected))
    )
    assert sum(expected) == pytest.approx(ours["difference"], rel=0.011)


def test_words_that_decide_are_found(root: Path) -> None:
    (found,) = document(root, "2", "the film was good a show", "--class", "pos")["inputs"]
    best = max(found["tokens"], key=lambda each: each["attribution"])
    assert best["token"] == "good" and found["class"] == "pos"


def test_the_vectors_of_n_grams_are_shared_by_their_characters(root: Path) -> None:
    """The model is linear in the vectors: the logit of each n-gram is known without a path."""
    text = "a good film"
    (found,) = document(root, "1", text, "--class", "pos")["inputs"]
    subject = Subject.of(restore(Run(root / "runs", 1)))
    model: Any = subject.model
    tokens = subject.about.tokens
    assert tokens is not None
    x = torch.from_numpy(tokens.encode([text]).rows).long()[:, : len(text)]
    buckets, weights = model.hashed(x)
    logits = (model.embedding(buckets)[0] @ model.output.weight[0]) * weights[0]
    expected = np.zeros(len(text))
    place = 0
    for n in range(model.shortest, model.longest + 1):
        for start in range(len(text)):
            for k in range(start, min(start + n, len(text))):
                expected[k] += float(logits[place]) / n
            place += 1
    assert [each["token"] for each in found["tokens"]] == list(text)
    assert [each["attribution"] for each in found["tokens"]] == pytest.approx(expected.tolist(), abs=1e-4)
    assert found["completeness_error"] < 1e-4


@pytest.mark.parametrize("run", ["4", "5"])
def test_a_language_model_is_asked_for_the_next_character(root: Path, run: str, tmp_path: Path) -> None:
    (found,) = document(root, run, "to be or n")["inputs"]
    assert "".join(each["token"] for each in found["tokens"]) == " be or n"  # the last eight
    assert [each["place"] for each in found["tokens"]] == list(range(8))
    assert sum(each["attribution"] for each in found["tokens"]) == pytest.approx(found["attributions"])
    assert found["attributions"] == pytest.approx(found["difference"], rel=0.011)
    restored = restore(Run(root / "runs", int(run)))
    alphabet = restored.preprocessing.alphabet
    logits = restored.answer(torch.tensor([[alphabet.index(letter) for letter in " be or n"]]))[0, -1]
    assert found["logit"] == pytest.approx(float(logits.max()), abs=1e-4)
    assert found["class"] == alphabet[int(logits.argmax())]
    file = tmp_path / "a.txt"
    file.write_text("to be or n")
    assert document(root, run, str(file))["inputs"][0]["tokens"] == found["tokens"]
    (other,) = document(root, run, "to be or n", "--class", "b")["inputs"]
    assert other["explained"] == "b" and other["class"] == found["class"]
    assert explain(root, run, "to be z", code=3).stderr.startswith("error: to be z")
    assert document(root, run, "--samples", "0,2")["inputs"][1]["input"] == "test:2"


def test_a_language_model_reads_the_files_that_predict_reads(root: Path, tmp_path: Path) -> None:
    """Control characters, which predict takes for what they are, and latin-1, which it tells."""
    file = tmp_path / "a.txt"
    for content, told in (
        (b"to be\x01or not to be", f"{file} has characters that the model never saw: '\\x01'"),
        (b"to be \xe9", f"{file} is read as latin-1, since it is not UTF-8"),
    ):
        file.write_bytes(content)
        for command in ("predict", "explain"):
            done = CliRunner().invoke(app, [command, "4", str(file), "--runs-dir", str(root / "runs")])
            assert told in done.stderr, (command, done.stderr)


def test_attention_is_torchs(root: Path) -> None:
    """The weights of nn.MultiheadAttention with the same parameters."""
    found = document(root, "4", "--attention", "to be or")
    subject = Subject.of(restore(Run(root / "runs", 4)))
    tokens = torch.tensor([[subject.about.alphabet.index(letter) for letter in "to be or"]])
    assert found["tokens"] == list("to be or")
    heard: list[Tensor] = []
    for layer in subject.model.modules():
        if isinstance(layer, SelfAttention):
            layer.register_forward_pre_hook(lambda module, given: heard.append(given[0]))
    subject.output(tokens)
    number = 0
    layers = [each for each in subject.model.modules() if isinstance(each, SelfAttention)]
    for x, layer in zip(heard, layers, strict=True):
        same = nn.MultiheadAttention(16, 4, batch_first=True).eval()
        parts = (layer.query, layer.key, layer.value)
        same.in_proj_weight.data = torch.cat([part.weight for part in parts])
        same.in_proj_bias.data = torch.cat([part.bias for part in parts])
        mask = torch.ones(8, 8, dtype=torch.bool).triu(1)
        weights = same(x, x, x, attn_mask=mask, average_attn_weights=False)[1][0].detach()
        for head in weights:
            each = found["heads"][number]
            np.testing.assert_allclose(np.array(each["weights"]), head.numpy(), atol=1e-6)
            assert each["first"] == pytest.approx(float(head[:, 0].mean()), abs=1e-6)
            number += 1
    assert number == len(found["heads"]) == 8 and found["heads"][4]["layer"] == "layers.1"
    assert all(0 <= each["entropy"] <= math.log2(8) for each in found["heads"])


def test_padding_is_not_looked_at(root: Path) -> None:
    found = document(root, "3", "--attention", "the good film")
    assert found["tokens"] == ["the", "good", "film"]
    assert np.array(found["heads"][0]["weights"]).sum(1) == pytest.approx(1)


class Encoder(nn.Module):
    """A transformer of torch's own blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 16)
        block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.output = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.blocks(self.embedding(x)).mean(1))


def own(model: nn.Module) -> Subject:
    spec = DataSpec("multiclass", "tokens", (6,), 3, vocabulary=9)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Subject(
        Run(Path("runs"), 1), "mine:Net", model.eval(), choose_task(spec), Preprocessing(spec), torch.device("cpu")
    )


def test_a_transformer_of_torchs_own_blocks() -> None:
    torch.manual_seed(0)
    subject, tokens = own(Encoder()), torch.tensor([[1, 4, 2, 8, 5, 7]])
    before = subject.output(tokens)
    found = attention_maps(subject, tokens)
    assert [(head.layer, head.head) for head in found.heads] == [
        ("blocks.layers.0.self_attn", 0), ("blocks.layers.0.self_attn", 1),
        ("blocks.layers.1.self_attn", 0), ("blocks.layers.1.self_attn", 1),
    ]  # fmt: skip
    model: Any = subject.model
    x = model.embedding(tokens)
    weights = model.blocks.layers[0].self_attn(x, x, x, average_attn_weights=False)[1][0]
    torch.testing.assert_close(torch.stack([head.weights for head in found.heads[:2]]).float(), weights)
    torch.testing.assert_close(subject.output(tokens), before)
    (parts,) = explain_texts(subject, [Sample("a", tokens)], class_name="2")
    assert [part.value for part in parts.parts] == ["1", "4", "2", "8", "5", "7"]
    assert parts.attributions.error is not None and parts.attributions.error < 0.011


def test_a_model_without_an_embedding_of_its_tokens() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.output = nn.Linear(9, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.output(nn.functional.one_hot(x, 9).float().mean(1))

    subject, tokens = own(Bag()), torch.tensor([[1, 2, 3, 4, 5, 6]])
    with pytest.raises(
        ConfigError, match="gives its tokens to one nn.Embedding, and runs/1 .mine:Net. gives them to none"
    ):
        explain_texts(subject, [Sample("a", tokens)], class_name=None)


def test_pictures_of_tokens_and_of_attention(root: Path, tmp_path: Path) -> None:
    explain(root, "2", "good film", "-o", str(tmp_path / "a"))
    drawn = (tmp_path / "a" / "explanation.svg").read_text()
    assert "0 &#x27;good&#x27;" in drawn and "1 &#x27;film&#x27;" in drawn
    explain(root, "4", "--attention", "to be", "-o", str(tmp_path / "b"))
    drawn = (tmp_path / "b" / "explanation.svg").read_text()
    assert drawn.count("<rect ") == 8 * 25 and ">1.00</text>" in drawn
    again = explain(root, "4", "--attention", "to be", "-o", str(tmp_path / "b"), code=2)
    assert again.stdout == "" and "holds explanation.svg: add --force" in again.stderr


def test_contributions_in_characters() -> None:
    from dlcli.plots.characters import to_characters
    from dlcli.plots.picture import Contributions, Picture

    picture = Picture("a", [Contributions("sums", ["one", "two"], [2.0, -1.0])])
    lines = to_characters(picture, width=40, ascii_only=True).splitlines()
    assert lines == ["sums", "one          +2 " + "#" * 23, "two          -1 " + "-" * 12]
    assert picture.table() == (["panel", "part", "contribution"], [["sums", "one", 2.0], ["sums", "two", -1.0]])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["2", "--attention", "good"], 2,
         "--attention is for models with attention, and {}/2 (rnn) has none: leave it out, and name the text as an "
         "input"),
        (["2", "good", "--method", "integrated"], 2, "--method integrated is for images, and {}/2 expects tokens of at "
         "most 6: leave it out"),
        (["4", ""], 3, "an input is empty: give a text or a file"),
        (["2", "good", "--attention", "good"], 2, "--attention takes no inputs: leave out good, or --attention"),
        (["2", "good", "--class", "po"], 2, "--class po is no class of {}/2: did you mean pos?"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(root: Path, words: list[str], code: int, message: str) -> None:
    assert explain(root, *words, code=code).stderr.splitlines()[-1] == f"error: {message.format(root / 'runs')}"
