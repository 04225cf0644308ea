"""Answers of trained runs for new inputs: images, rows of numbers, texts; and generated text."""

import copy
import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from dlcli.config.settings import TrainConfig
from dlcli.core.errors import ConfigError, DataError, RunError
from dlcli.core.spec import DataSpec
from dlcli.data import builtin
from dlcli.data.kinds import input_dtype
from dlcli.data.preprocessing import Preprocessing
from dlcli.evaluation.generate import generate
from dlcli.evaluation.predict import Prediction, predict
from dlcli.experiment.restore import Restored, restore
from dlcli.runs.run import Run
from dlcli.tasks.multiclass import Multiclass
from dlcli.training.train import train

STORY = "".join(
    f"The {a} fox saw {b} dogs and ran away.\n" for a in ("red", "old", "sly", "shy") for b in range(10, 40)
)

RUNS: dict[str, dict[str, Any]] = {
    "iris": {"model": "mlp", "data": "iris", "epochs": 5},
    "cancer": {"model": "logistic", "data": "breast-cancer", "epochs": 2},
    "diabetes": {"model": "linear", "data": "diabetes", "optimizer": "sgd", "epochs": 5},
    "digits": {"model": "simple-cnn", "data": "digits", "epochs": 2},
    "recall": {"model": "attention", "epochs": 1, "data_options": {"samples": 200}},
    "rnn": {"model": "rnn", "data": "text:", "epochs": 3, "model_options": {"hidden": 24, "embedding": 12}},
    "attention": {"model": "attention", "data": "text:", "epochs": 3, "model_options": {"width": 16}},
}


@pytest.fixture(scope="session")
def restored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Restored]:
    """A small trained run of every kind, restored from its folder."""
    folder = tmp_path_factory.mktemp("prediction")
    (folder / "story.txt").write_text(STORY)
    found = {}
    for name, settings in RUNS.items():
        settings = dict(settings)
        if settings.get("data") == "text:":
            settings |= {"data": f"text:{folder}/story.txt", "data_options": {"length": 20}}
        for _ in train(TrainConfig(**settings, device="cpu"), runs_dir=folder / "runs" / name):
            pass
        found[name] = restore(Run(folder / "runs" / name, 1))
    return found


def answers(restored: Restored, *files: Path) -> list[Prediction]:
    return list(predict(restored, [str(file) for file in files]))


def said(restored: Restored, *files: Path) -> str:
    with pytest.raises(DataError) as caught:
        answers(restored, *files)
    return str(caught.value)


def write_csv(file: Path, rows: Any, header: Any = None) -> Path:
    lines = [",".join(map(str, row)) for row in ([header] if header else []) + [list(row) for row in rows]]
    file.write_text("\n".join(lines) + "\n")
    return file


# Rows of numbers

IRIS = ("sepal length", "sepal width", "petal length", "petal width")


def test_rows_get_the_class_and_probability_of_the_model(restored: dict[str, Restored], tmp_path: Path) -> None:
    run, raw = restored["iris"], builtin.iris(tmp_path).x[::15]
    about = run.preprocessing
    x = (raw.double().numpy() - about.mean) / about.std
    probability = torch.softmax(run.model(torch.from_numpy(x).float()).double(), 1)
    file = write_csv(tmp_path / "a.csv", raw.double().numpy().round(1))
    for i, found in enumerate(answers(run, file)):
        assert found.input == f"{file}:{i + 1}"
        assert found.values["class"] == ("setosa", "versicolor", "virginica")[int(probability[i].argmax())]
        assert found.values["probability"] == pytest.approx(probability[i].max().item(), rel=1e-5)
    assert i == 9


def test_a_header_orders_the_columns_and_others_are_left_out(restored: dict[str, Restored], tmp_path: Path) -> None:
    rows = builtin.iris(tmp_path).x[::30].double().numpy().round(1)
    plain = answers(restored["iris"], write_csv(tmp_path / "a.csv", rows))
    shuffled = [[row[2], "a flower", row[0], row[3], row[1]] for row in rows]
    header = ["petal length", "remark", "sepal length", " petal width", "sepal width"]
    other = answers(restored["iris"], write_csv(tmp_path / "b.csv", shuffled, header))
    assert [p.values for p in other] == [p.values for p in plain]
    assert other[0].input == f"{tmp_path}/b.csv:2"


def test_quotes_empty_lines_and_a_byte_order_mark_are_read(restored: dict[str, Restored], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbf"5.1","3.5","1.4","0.2"\r\n\r\n 6.0, 3.0,4.8,1.8\r\n')
    found = answers(restored["iris"], tmp_path / "a.csv")
    assert [p.input for p in found] == [f"{tmp_path}/a.csv:1", f"{tmp_path}/a.csv:3"]


def test_rows_that_do_not_fit_are_told(restored: dict[str, Restored], tmp_path: Path) -> None:
    """For all other faults see test_rows.py."""
    file = tmp_path / "a.csv"
    file.write_text(",".join(IRIS) + "\n1,2,3,4\n1,2,3,wide\n")
    assert said(restored["iris"], file) == f"{file}:3: petal width is 'wide', which is no number"


def test_two_classes(restored: dict[str, Restored], tmp_path: Path) -> None:
    run, raw = restored["cancer"], builtin.breast_cancer(tmp_path).x[:20]
    benign = torch.sigmoid(run.model(run.preprocessing.apply(raw))[:, 0].double())
    found = answers(run, write_csv(tmp_path / "a.csv", raw.double().tolist()))
    for p, share in zip(found, benign.tolist(), strict=True):
        assert p.values["class"] == ("benign" if share > 0.5 else "malignant")
        assert p.values["probability"] == pytest.approx(max(share, 1 - share), rel=1e-5)
    assert {p.values["class"] for p in found} == {"benign", "malignant"}


def test_a_value_comes_in_the_targets_own_units(restored: dict[str, Restored], tmp_path: Path) -> None:
    run, source = restored["diabetes"], builtin.diabetes(tmp_path)
    weight, bias = run.model.linear.weight.double().detach().numpy()[0], run.model.linear.bias.item()
    about, raw = run.preprocessing, source.x[:30].double().numpy()
    expected = ((raw - about.mean) / about.std @ weight + bias) * about.target_std + about.target_mean
    found = [p.values for p in answers(run, write_csv(tmp_path / "a.csv", raw))]
    assert all(list(values) == ["value"] for values in found)
    assert [values["value"] for values in found] == pytest.approx(expected.tolist(), rel=1e-4)
    assert np.mean(expected) == pytest.approx(source.y[:30].mean().item(), rel=0.3)


def test_rows_of_tokens(restored: dict[str, Restored], tmp_path: Path) -> None:
    run = restored["recall"]
    row = [0, 8, 16, 24, 32, 40, 48, 56, 128]
    expected = torch.softmax(run.model(torch.tensor([row]))[0].double(), 0)
    (found,) = answers(run, write_csv(tmp_path / "a.csv", [row]))
    assert found.values["class"] == str(int(expected.argmax()))
    assert found.values["probability"] == pytest.approx(expected.max().item(), rel=1e-5)
    for wrong in (144, -1, 0.5):
        file = write_csv(tmp_path / "b.csv", [row, [*row[:-1], wrong]])
        assert said(run, file) == f"{file}:2: tokens must be whole numbers from 0 to 143"


# Images


class Probe(nn.Module):
    """Stores its input, and answers class 1."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return torch.tensor([[0.0, 5.0]]).expand(len(x), 2)


def probe(shape: tuple[int, int, int], **about: Any) -> Restored:
    spec = DataSpec("multiclass", "image", shape, 2)
    preprocessing = Preprocessing(spec, class_names=("cat", "dog"), **about)
    config = TrainConfig(model="cnn", data="random")
    nothing: Any = None
    device = torch.device("cpu")
    return Restored(Run(Path("runs"), 1), config, device, preprocessing, Probe(), Multiclass(2), nothing)


def picture(file: Path, *shape: int) -> np.ndarray[Any, Any]:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return pixels


def test_a_grey_image_reaches_the_model_pixel_by_pixel(tmp_path: Path) -> None:
    pixels, run = picture(tmp_path / "a.png", 6, 8), probe((1, 6, 8), mean=(100.0,), std=(50.0,))
    (found,) = answers(run, tmp_path / "a.png")
    assert found == Prediction(
        str(tmp_path / "a.png"), {"class": "dog", "probability": pytest.approx(1 / (1 + math.exp(-5)))}
    )
    np.testing.assert_allclose(run.model.seen[0, 0].numpy(), (pixels - 100.0) / 50, rtol=1e-5, atol=1e-6)


def test_a_colour_image_reaches_the_model_channel_by_channel(tmp_path: Path) -> None:
    pixels, run = picture(tmp_path / "a.bmp", 6, 8, 3), probe((3, 6, 8))
    answers(run, tmp_path / "a.bmp")
    np.testing.assert_array_equal(run.model.seen[0].numpy(), pixels.transpose(2, 0, 1))


def test_white_is_what_the_data_calls_white(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 255).save(tmp_path / "a.png")
    run = probe((1, 8, 8), pixel_max=16.0)
    answers(run, tmp_path / "a.png")
    assert run.model.seen.unique().tolist() == [16.0]


def test_a_folder_is_searched_for_images_in_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for name in ("b.png", "a.JPG", "deeper/c.gif"):
        picture(tmp_path / name, 8, 8)
    (tmp_path / "notes.txt").write_text("no image")
    found = answers(probe((1, 8, 8)), tmp_path)
    assert [p.input for p in found] == [str(tmp_path / n) for n in ("a.JPG", "b.png", "deeper/c.gif")]


def test_images_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    """For all other faults see test_images.py."""
    run = probe((1, 8, 8))
    (tmp_path / "a.png").write_bytes(b"no image at all")
    assert said(run, tmp_path / "a.png") == (
        f"{tmp_path}/a.png is no image in one of the formats PNG, JPEG, BMP, GIF, WEBP, TIFF"
    )
    (tmp_path / "empty").mkdir()
    assert said(run, tmp_path / "empty") == (
        f"{tmp_path}/empty holds no images (.png, .jpg, .jpeg, .bmp, .gif, .webp, .tif, .tiff)"
    )
    (tmp_path / "empty" / "folder.png").mkdir()
    assert said(run, tmp_path / "empty").startswith(f"{tmp_path}/empty holds no images (")
    assert said(run, tmp_path / "missing.png") == f"{tmp_path}/missing.png does not exist"
    os.mkfifo(tmp_path / "pipe.png")
    assert said(run, tmp_path / "pipe.png") == f"{tmp_path}/pipe.png is no regular file"


def test_a_folder_is_for_images_only(restored: dict[str, Restored], tmp_path: Path) -> None:
    assert said(restored["iris"], tmp_path) == f"{tmp_path} is a folder: name the files"


def test_a_digit_as_a_file_is_answered_as_the_digit_itself(restored: dict[str, Restored], tmp_path: Path) -> None:
    run, raw = restored["digits"], builtin.digits(tmp_path).x[:20]
    scores = run.model(run.preprocessing.apply(raw).contiguous(memory_format=torch.channels_last))
    expected = torch.softmax(scores.double(), 1)
    rows = write_csv(tmp_path / "a.csv", raw.flatten(1).tolist())
    from_rows = answers(run, rows)
    for i, digit in enumerate(raw):
        Image.fromarray((digit[0].numpy() * 255.0 / 16).round().astype(np.uint8)).save(tmp_path / f"{i:02}.png")
    from_files = answers(run, *(tmp_path / f"{i:02}.png" for i in range(20)))
    for i in range(20):
        assert from_rows[i].values["class"] == from_files[i].values["class"] == str(int(expected[i].argmax()))
        assert from_rows[i].values["probability"] == pytest.approx(expected[i].max().item(), rel=1e-5)
        assert from_files[i].values["probability"] == pytest.approx(expected[i].max().item(), abs=0.02)


# The only way to a trained model


def test_an_answer_is_normalised_laid_out_and_computed_in_batches() -> None:
    seen: list[Tensor] = []

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x.mean((1, 2, 3))[:, None]

    run = probe((3, 4, 4), mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 5.0))
    run = dataclasses.replace(run, model=Mean(), config=run.config.replace(eval_batch_size=4))
    raw = torch.randint(256, (10, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    output = run.answer(raw)
    assert [len(x) for x in seen] == [4, 4, 2]
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)
    normalised = (raw.numpy() - np.array([1, 2, 3]).reshape(3, 1, 1)) / np.array([2, 4, 5]).reshape(3, 1, 1)
    np.testing.assert_allclose(output[:, 0].numpy(), normalised.mean((1, 2, 3)), rtol=1e-5)


def test_an_answer_is_computed_in_the_precision_of_the_training(restored: dict[str, Restored], tmp_path: Path) -> None:
    run, raw = restored["digits"], builtin.digits(tmp_path).x[:20]
    half = dataclasses.replace(run, config=run.config.replace(precision="bf16"))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        expected = run.model(run.preprocessing.apply(raw)).float()
    assert half.answer(raw).dtype == torch.float32
    assert torch.equal(half.answer(raw), expected) and not torch.equal(run.answer(raw), expected)


def test_answers_that_are_not_finite_are_told(restored: dict[str, Restored]) -> None:
    for name in ("iris", "rnn", "attention"):
        run = dataclasses.replace(restored[name], model=copy.deepcopy(restored[name].model))
        with torch.no_grad():
            next(run.model.parameters()).fill_(float("nan"))
        sample = torch.zeros(2, *run.preprocessing.spec.input_shape, dtype=input_dtype(run.preprocessing.spec))
        said = f"the model of {run.run} gives values that are not finite: its weights are of no use"
        with pytest.raises(RunError) as caught:
            run.answer(sample)
        assert str(caught.value) == said
        if name != "iris":
            with pytest.raises(RunError) as caught:
                generated(run)
            assert str(caught.value) == said


# Texts


@pytest.mark.parametrize("name", ["rnn", "attention"])
@pytest.mark.parametrize("length", [2, 20, 21, 22, 60, 61, 150])
def test_a_text_is_scored_by_its_cross_entropy(
    restored: dict[str, Restored], tmp_path: Path, name: str, length: int
) -> None:
    run, file = restored[name], tmp_path / "a.txt"
    file.write_text(STORY[:length])
    tokens = torch.tensor([run.preprocessing.alphabet.index(c) for c in STORY[:length]])
    losses: list[float] = []
    with torch.no_grad():
        for i in range(1, length):  # one character at a time, from the start of its row of 20
            start = (i - 1) // 20 * 20
            logits = run.model(tokens[None, start:i])[0, -1]
            losses.append(F.cross_entropy(logits.double(), tokens[i]).item())
        following = run.model(tokens[None, -20:])[0, -1]
    (found,) = answers(run, file)
    assert found.input == str(file)
    assert found.values["characters"] == length
    assert found.values["bits_per_char"] == pytest.approx(np.mean(losses) / math.log(2), rel=1e-5)
    assert found.values["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)
    assert found.values["next"] == run.preprocessing.alphabet[int(following.argmax())]


def test_texts_that_cannot_be_scored_are_told(restored: dict[str, Restored], tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("The fox! Über")
    assert said(restored["rnn"], file) == f"{file} has characters that the model never saw: '!' 'b' 'Ü'"
    for content in ("T", ""):
        file.write_text(content)
        assert said(restored["rnn"], file) == f"{file} has {len(content)} characters: at least 2 are needed"
    file.write_bytes(b"The\n\xff\xfe")
    assert said(restored["rnn"], file) == f"{file} has characters that the model never saw: 'þ' 'ÿ'"  # as latin-1
    file.write_bytes(b"The\n\xff\x00")
    assert said(restored["rnn"], file) == f"{file}:2 is not text: it holds the control character 0x00"


# Generated text


def generated(restored: Restored, prompt: str = "The ", **settings: Any) -> str:
    return "".join(generate(restored, prompt, **({"length": 30} | settings)))


@pytest.mark.parametrize("name", ["rnn", "attention"])
def test_generation_is_a_function_of_the_seed(restored: dict[str, Restored], name: str) -> None:
    torch.manual_seed(1)
    first = generated(restored[name], seed=3)
    torch.manual_seed(2)
    assert generated(restored[name], seed=3) == first
    assert generated(restored[name], seed=4) != first
    assert len(first) == 30 and set(first) <= set(STORY)


@pytest.mark.parametrize("name", ["rnn", "attention"])
def test_temperature_0_takes_the_likeliest_always(restored: dict[str, Restored], name: str) -> None:
    run, alphabet = restored[name], restored[name].preprocessing.alphabet
    text = "The "
    with torch.no_grad():
        for _ in range(30):
            tokens = torch.tensor([[alphabet.index(c) for c in text]])
            tokens = tokens if name == "rnn" else tokens[:, -20:]  # the context of a recurrent model is not limited
            text += alphabet[int(run.model(tokens)[0, -1].argmax())]
    assert generated(run, temperature=0) == text[4:]
    assert generated(run, temperature=0, seed=9) == text[4:]
    assert generated(run, top_k=1, seed=9) == text[4:]


def test_top_k_draws_from_the_k_likeliest(restored: dict[str, Restored]) -> None:
    run = restored["rnn"]
    alphabet = run.preprocessing.alphabet
    with torch.no_grad():
        logits = run.model(torch.tensor([[alphabet.index(c) for c in "The "]]))[0, -1]
    best = {alphabet[i] for i in logits.topk(3).indices.tolist()}
    assert {generated(run, length=1, top_k=3, temperature=5.0, seed=s) for s in range(60)} == best
    assert len({generated(run, length=1, temperature=5.0, seed=s) for s in range(60)}) > 3


def test_temperature_draws_from_the_softmax(restored: dict[str, Restored]) -> None:
    run = restored["rnn"]
    alphabet = run.preprocessing.alphabet
    with torch.no_grad():
        logits = run.model(torch.tensor([[alphabet.index(c) for c in "The "]]))[0, -1]
    probability = torch.softmax(logits.double() / 0.7, 0)
    drawn = [generated(run, length=1, temperature=0.7, seed=s) for s in range(400)]
    likeliest = int(probability.argmax())
    share = drawn.count(alphabet[likeliest]) / 400
    assert share == pytest.approx(probability[likeliest].item(), abs=0.1)


def test_characters_come_one_by_one_from_an_empty_prompt_too(restored: dict[str, Restored]) -> None:
    characters = list(generate(restored["rnn"], "", length=5))
    assert [len(c) for c in characters] == [1] * 5
    assert characters == list(generate(restored["rnn"], "\n", length=5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature = -1.0 is out of range: it must be 0, or from 1e-06 to 1e+06"),
        ({"temperature": 1e-320}, "temperature = 1e-320 is out of range: it must be 0, or from 1e-06 to 1e+06"),
        ({"temperature": math.nan}, "temperature = nan is out of range: it must be 0, or from 1e-06 to 1e+06"),
        ({"temperature": math.inf}, "temperature = inf is out of range: it must be 0, or from 1e-06 to 1e+06"),
        ({"top_k": -1}, "top_k = -1 is out of range: it must be >= 0"),
        ({"length": 0}, "length = 0 is out of range: it must be >= 1"),
        ({"seed": -1}, "seed = -1 is out of range: it must be in [0, 18446744073709551616)"),
        (
            {"seed": 2**64},
            "seed = 18446744073709551616 is out of range: it must be in [0, 18446744073709551616)",
        ),
    ],
)
def test_settings_of_generation_are_checked_before_a_character_is_asked_for(
    restored: dict[str, Restored], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        generate(restored["rnn"], "The ", **({"length": 30} | settings))
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["rnn", "attention"])
@pytest.mark.parametrize("settings", [{"temperature": 1e-6}, {"temperature": 1e6}, {"seed": 2**64 - 1}])
def test_the_ends_of_the_ranges_are_good(restored: dict[str, Restored], name: str, settings: dict[str, Any]) -> None:
    text = generated(restored[name], **settings)
    assert len(text) == 30
    assert settings.get("temperature") != 1e-6 or text == generated(restored[name], temperature=0)


def test_an_unknown_character_in_the_prompt_is_left_out_and_told(restored: dict[str, Restored]) -> None:
    said: list[str] = []
    text = generated(restored["rnn"], "The !!Qfox", tell=said.append)
    assert said == [
        "--prompt: unknown characters, which the training text has not, or too rarely for the vocabulary: 3, "
        "such as '!' (2), 'Q' (1); they are left out"
    ]
    assert text == generated(restored["rnn"], "The fox")
    assert generated(restored["rnn"], "!", tell=said.append) == generated(restored["rnn"], "")


def test_only_a_language_model_writes(restored: dict[str, Restored]) -> None:
    with pytest.raises(ConfigError) as caught:
        generated(restored["iris"])
    assert str(caught.value) == f"{restored['iris'].run} is no language model: train one with `dlcli train rnn`"
