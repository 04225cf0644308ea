"""The commands `dlcli predict` and `dlcli generate`: complete outputs and messages, exit codes, streams."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dlcli import predict
from dlcli.cli.main import app
from dlcli.core.errors import RunError
from dlcli.data import builtin
from dlcli.data.preprocessing import Preprocessing
from dlcli.evaluation.pixels import Pixels
from dlcli.experiment.restore import Restored, restore
from dlcli.runs.run import Run

SOURCE = str(Path(__file__).parent.parent)
TRAININGS = (
    ("cnn", "--data", "digits", "--epochs", "15"),
    ("logistic", "--data", "iris", "--epochs", "30"),
    ("linear", "--data", "diabetes", "--epochs", "2"),
    ("rnn", "--data", "text:{}", "--set", "data.length=8", "--set", "model.hidden=8", "--epochs", "2"),
    ("logistic", "--data", "breast-cancer", "--epochs", "2"),
)
DIGITS, IRIS, DIABETES, TEXT, CANCER = "12345"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with one trained run of each kind of data."""
    folder = tmp_path_factory.mktemp("predict")
    (folder / "text.txt").write_text("to be or not to be\n" * 60)
    for words in TRAININGS:
        typed = [word.format(folder / "text.txt") for word in words]
        result = CliRunner().invoke(app, ["train", *typed, "--device", "cpu", "--quiet", "--runs-dir", str(folder)])
        assert result.exit_code == 0, result.output
    yield folder


def invoke(root: Path, *words: str, exit_code: int = 0) -> tuple[str, str]:
    """stdout and stderr of a command in this process."""
    result = CliRunner().invoke(app, [*words, "--runs-dir", str(root)])
    assert result.exit_code == exit_code, result.output
    return result.stdout, result.stderr


def refused(root: Path, *words: str, exit_code: int) -> str:
    """The complete error message of a command that prints nothing else."""
    out, err = invoke(root, *words, exit_code=exit_code)
    assert out == "" and err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1
    return err.removeprefix("error: ").rstrip("\n")


def run_of(root: Path, number: str) -> Restored:
    return restore(Run(root, int(number)))


# Images unlike the training data


@pytest.fixture
def digits(tmp_path: Path) -> tuple[list[str], list[str]]:
    """Ten digits as in the training data, white on black, and as on paper, black on white."""
    pixels = (builtin.digits(tmp_path).x[:10, 0].numpy() * 255.0 / 16).round().astype(np.uint8)
    right, wrong = [], []
    for i, digit in enumerate(pixels):
        for names, name, shown in ((right, f"{i}.png", digit), (wrong, f"{i}-paper.png", 255 - digit)):
            Image.fromarray(shown).save(tmp_path / name)
            names.append(str(tmp_path / name))
    return right, wrong


def told(files: list[str], root: Path, then: str, *, invert: bool = False) -> str:
    """The warning about images for run 1, with numbers by numpy; white is 16 in `digits`."""
    pixels = np.stack([np.asarray(Image.open(file)) for file in files]) * (16 / 255)
    pixels = 16 - pixels if invert else pixels
    data = json.loads((root / DIGITS / "data.json").read_text())
    return (
        f"warning: the pixels of the input have a mean of {pixels.mean():.4g} (standard deviation "
        f"{pixels.std():.4g}), those of the training data {data['mean'][0]:.4g} ({data['std'][0]:.4g}), "
        f"where white is 16: {then}\n"
    )


def classes(out: str) -> list[str]:
    return [row["class"] for row in json.loads(out)]


def test_black_ink_on_white_paper_is_told_and_inverted(
    root: Path, digits: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    right, wrong = digits
    out, err = invoke(root, "predict", DIGITS, *right, "--json")
    assert err == ""
    answers = json.loads(out)
    truth = [str(y) for y in builtin.digits(tmp_path).y[:10].tolist()]
    assert sum(a == b for a, b in zip(classes(out), truth, strict=True)) >= 9
    out, err = invoke(root, "predict", DIGITS, *wrong, "--json")
    assert err == told(wrong, root, "black and white seem swapped; try --invert")
    assert sum(a == b for a, b in zip(classes(out), truth, strict=True)) <= 5
    out, err = invoke(root, "predict", DIGITS, *wrong, "--invert", "--json")
    assert err == ""
    for found, expected in zip(json.loads(out), answers, strict=True):
        assert found["class"] == expected["class"]
        assert found["probability"] == pytest.approx(expected["probability"], rel=1e-4)
    _, err = invoke(root, "predict", DIGITS, *right, "--invert")
    assert err == told(right, root, "black and white seem swapped; leave out --invert", invert=True)


def test_one_image_is_enough_for_the_warning(root: Path, digits: tuple[list[str], list[str]]) -> None:
    right, wrong = digits
    for good, bad in zip(right, wrong, strict=True):
        assert invoke(root, "predict", DIGITS, good)[1] == ""
        assert invoke(root, "predict", DIGITS, bad)[1] == told(
            [bad], root, "black and white seem swapped; try --invert"
        )


def test_rows_of_pixels_in_another_scale_are_told(root: Path, tmp_path: Path) -> None:
    pixels = builtin.digits(tmp_path).x[:10].flatten(1).double().numpy()
    data = json.loads((root / DIGITS / "data.json").read_text())
    for scale, warns in ((1, False), (1 / 16, True), (255 / 16, True), (1 / 4080, True)):
        rows = "".join(",".join(repr(float(value)) for value in row) + "\n" for row in pixels * scale)
        (tmp_path / "a.csv").write_text(rows)
        expected = (
            f"warning: the pixels of the input have a mean of {(pixels * scale).mean():.4g} (standard deviation "
            f"{(pixels * scale).std():.4g}), those of the training data {data['mean'][0]:.4g} "
            f"({data['std'][0]:.4g}), where white is 16: prepare the input as the training data was prepared\n"
        )
        assert invoke(root, "predict", DIGITS, str(tmp_path / "a.csv"))[1] == (expected if warns else "")


def test_colours_count_together_and_a_training_without_normalisation_kept_nothing(root: Path) -> None:
    spec = run_of(root, DIGITS).preprocessing.spec
    pixels = torch.stack([torch.full((4, 4), 10.0), torch.full((4, 4), 20.0), torch.full((4, 4), 90.0)])[None]

    def warning(*mean: float) -> str | None:
        seen = Pixels(Preprocessing(spec, mean=mean, std=(1.0,) * len(mean)))
        seen.add(pixels)
        return seen.warning(inverted=False)

    assert warning() is None and warning(10, 20, 90) is None and warning(90, 10, 20) is None
    assert warning(40, 40, 40) is not None  # the same mean, but 36 times the deviation
    assert str(warning(100, 110, 180)).startswith(
        f"warning: the pixels of the input have a mean of 40 (standard deviation {np.std([10, 20, 90]):.4g}), those "
        f"of the training data 130 ({np.sqrt(np.var([100, 110, 180]) + 1):.4g}), where white is 255: "
    )


def test_python_is_told_by_logging(
    root: Path, digits: tuple[list[str], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    found = predict(root / DIGITS, digits[1], top=2)
    assert [list(p.values) for p in found] == [["class", "probability", "class_2", "probability_2"]] * 10
    assert [record.getMessage() + "\n" for record in caplog.records] == [
        told(digits[1], root, "black and white seem swapped; try --invert")
    ]
    caplog.clear()
    assert len(predict(root / DIGITS, digits[1], invert=True)) == 10 and caplog.records == []


def test_a_grey_tiff_of_16_bits_is_answered_as_that_of_8(
    root: Path, digits: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    """In both 0 is white, as tag 262 says; Pillow inverts such images when it saves them with 8 bits."""
    for i, file in enumerate(digits[0]):
        pixels = np.asarray(Image.open(file))
        for bits, stored in ((8, pixels), (16, 65535 - pixels.astype(np.uint16) * 257)):
            (tmp_path / str(bits)).mkdir(exist_ok=True)
            Image.fromarray(stored).save(tmp_path / str(bits) / f"{i}.tif", tiffinfo={262: 0})
    found = []
    for bits in ("8", "16"):
        out, err = invoke(root, "predict", DIGITS, str(tmp_path / bits), "--json")
        assert err == ""
        found.append([(row["class"], row["probability"]) for row in json.loads(out)])
    assert found[0] == found[1] and len(found[0]) == 10


# Hidden files


def test_hidden_files_of_a_folder_are_skipped_and_counted(
    root: Path, digits: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    (photos / ".thumbnails").mkdir(parents=True)
    os.rename(digits[0][0], photos / "0.png")
    for name in ("._0.png", ".DS_Store", ".thumbnails/0.png"):
        (photos / name).write_bytes(b"\0\5\26\7")
    out, err = invoke(root, "predict", DIGITS, str(photos), "--json")
    assert [row["input"] for row in json.loads(out)] == [str(photos / "0.png")]
    assert err == f"files skipped in {photos}: 3 hidden\n"
    (photos / "notes.txt").write_text("zero")
    assert invoke(root, "predict", DIGITS, str(photos))[1] == f"files skipped in {photos}: 3 hidden and 1 not images\n"
    (photos / "0.png").unlink()
    assert refused(root, "predict", DIGITS, str(photos), exit_code=3) == (
        f"{photos} holds no images (.png, .jpg, .jpeg, .bmp, .gif, .webp, .tif, .tiff): 3 hidden and 1 not images"
    )
    assert refused(root, "predict", DIGITS, str(photos / "._0.png"), exit_code=3) == (
        f"{photos / '._0.png'} is no image in one of the formats PNG, JPEG, BMP, GIF, WEBP, TIFF"
    )
    (tmp_path / ".named").mkdir()
    os.rename(digits[0][1], tmp_path / ".named" / "1.png")
    assert invoke(root, "predict", DIGITS, str(tmp_path / ".named"))[1] == ""


# Classes and columns

HEADER = "id,name,sepal length,sepal width,petal length,petal width,class\n"
ROWS = HEADER + "007,=Ann,5.1,3.5,1.4,0.2,a\n-8,Bo|b,6,3,4.8,1.8,b\n"
NAMES = ("setosa", "versicolor", "virginica")


@pytest.fixture
def rows(tmp_path: Path) -> str:
    (tmp_path / "a.csv").write_text(ROWS)
    return str(tmp_path / "a.csv")


def softmax(root: Path) -> np.ndarray[Any, Any]:
    """Probabilities of run 2 for the two rows, computed by numpy from the weights."""
    run = run_of(root, IRIS)
    about, weights = run.preprocessing, [p.detach().double().numpy() for p in run.model.parameters()]
    x = (np.array([[5.1, 3.5, 1.4, 0.2], [6, 3, 4.8, 1.8]]) - about.mean) / about.std
    scores = np.exp(x @ weights[0].T + weights[1])
    return scores / scores.sum(1, keepdims=True)


def test_top_names_the_likeliest_classes_in_order(root: Path, rows: str) -> None:
    found = json.loads(invoke(root, "predict", IRIS, rows, "--top", "3", "--json")[0])
    for row, probability in zip(found, softmax(root), strict=True):
        order = np.argsort(-probability)
        names, shares = ("class", "class_2", "class_3"), ("probability", "probability_2", "probability_3")
        assert list(row) == ["input", *(key for pair in zip(names, shares, strict=True) for key in pair)]
        assert [row[k] for k in names] == [NAMES[k] for k in order]
        assert [row[k] for k in shares] == pytest.approx(probability[order].tolist(), rel=1e-4)
    two = invoke(root, "predict", IRIS, rows, "--top", "2", "--csv")[0].splitlines()
    assert two[0] == "input,class,probability,class_2,probability_2"
    assert two[1] == ",".join(str(found[0][k]) for k in two[0].split(","))


def test_probabilities_are_those_of_every_class(root: Path, rows: str) -> None:
    found = json.loads(invoke(root, "predict", IRIS, rows, "--probabilities", "--json")[0])
    for row, probability in zip(found, softmax(root), strict=True):
        assert list(row) == ["input", "class", "probability", *(f"probability/{name}" for name in NAMES)]
        assert [row[f"probability/{name}"] for name in NAMES] == pytest.approx(probability.tolist(), rel=1e-4)
    binary = builtin.breast_cancer(Path()).x[:1].double().tolist()
    Path(rows).write_text(",".join(map(str, binary[0])) + "\n")
    (row,) = json.loads(invoke(root, "predict", CANCER, rows, "--probabilities", "--top", "2", "--json")[0])
    assert row["probability/malignant"] + row["probability/benign"] == pytest.approx(1)
    assert {row["class"], row["class_2"]} == {"malignant", "benign"}
    assert row["probability"] == row[f"probability/{row['class']}"] >= row["probability_2"]


def test_columns_are_kept_in_every_format(root: Path, rows: str) -> None:
    keep = ("--keep", "id, name", "--keep", "class")
    names = ["input", "id", "name", "input/class", "class", "probability"]
    found = json.loads(invoke(root, "predict", IRIS, rows, *keep, "--json")[0])
    assert [list(row) for row in found] == [names] * 2
    assert [[row[k] for k in names[1:4]] for row in found] == [["007", "=Ann", "a"], ["-8", "Bo|b", "b"]]
    assert [row["class"] for row in found] == [NAMES[k] for k in softmax(root).argmax(1)]
    table = list(csv.reader(io.StringIO(invoke(root, "predict", IRIS, rows, *keep, "--csv")[0])))
    assert table[0] == names
    assert [row[1:4] for row in table[1:]] == [["007", "'=Ann", "a"], ["-8", "Bo|b", "b"]]
    markdown = invoke(root, "predict", IRIS, rows, *keep, "--md")[0].splitlines()
    assert markdown[0] == f"| {' | '.join(names)} |"
    assert markdown[3].startswith(f"| {rows}:3 | -8 | Bo\\|b | b | ")
    plain = invoke(root, "predict", IRIS, rows, *keep)[0].splitlines()
    assert plain[0].split() == names
    assert plain[1].split()[:5] == [f"{rows}:2", "007", "=Ann", "a", "setosa"]


def test_a_name_with_a_comma_stands_in_quotes(root: Path, rows: str) -> None:
    Path(rows).write_text('"a,b",customer_id,' + ",".join(HEADER.split(",")[2:6]) + "\nx,1,5,3,1,0\n")
    (row,) = json.loads(invoke(root, "predict", IRIS, rows, "--keep", '"a,b",customer_id', "--json")[0])
    assert (row["a,b"], row["customer_id"]) == ("x", "1")
    assert "customer_id" in invoke(root, "predict", IRIS, rows, "--keep", "customer_id")[0].splitlines()[0]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((IRIS, "{rows}", "--keep", "nam"), 3, "{rows}:1 has no column 'nam' for --keep: did you mean name?"),
        (
            (IRIS, "{rows}", "--keep", "xyz"), 3,
            "{rows}:1 has no column 'xyz' for --keep: known are id, name, sepal length, sepal width, petal length, "
            "petal width, class",
        ),
        ((IRIS, "{bare}", "--keep", "id"), 3, "{bare} has no header in which --keep id could be found"),
        ((IRIS, "{twice}", "--keep", "id"), 3, "{twice}:1 has 2 columns 'id': one is needed for --keep"),
        ((IRIS, "{rows}", "--keep", "id,"), 2, "--keep id, has an empty name: name columns, as in --keep id,name"),
        ((IRIS, "{rows}", "--keep", ""), 2, "--keep  has an empty name: name columns, as in --keep id,name"),
        ((IRIS, "{rows}", "--keep", "id,id"), 2, "--keep names id twice: once is enough"),
        ((DIGITS, "{image}", "--keep", "id"), 2, "--keep id is for columns of .csv files, and {image} is none"),
        ((TEXT, "{rows}", "--keep", "id"), 2, "--keep id is for columns of .csv files, and {root}/4 expects texts"),
        ((IRIS, "{rows}", "--top", "4"), 2, "--top 4 is out of range: {root}/2 has 3 classes"),
        ((CANCER, "{rows}", "--top", "3"), 2, "--top 3 is out of range: {root}/5 has 2 classes"),
        ((IRIS, "{rows}", "--top", "0"), 2, "--top 0 is out of range: {root}/2 has 3 classes"),
        (
            (DIABETES, "{rows}", "--top", "2"), 2,
            "--top 2 is for classification models, and {root}/3 is for regression",
        ),
        (
            (TEXT, "{rows}", "--probabilities"), 2,
            "--probabilities is for classification models, and {root}/4 is for next-token",
        ),
        ((IRIS, "{rows}", "--invert"), 2, "--invert is for images, and {root}/2 expects features"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_followed_are_told(
    words: tuple[str, ...], code: int, message: str, root: Path, rows: str, tmp_path: Path
) -> None:
    places = {"rows": rows, "root": str(root)} | {name: str(tmp_path / f"{name}.csv") for name in ("bare", "twice")}
    places["image"] = str(tmp_path / "a.png")
    Path(places["bare"]).write_text("5.1,3.5,1.4,0.2\n")
    Path(places["twice"]).write_text("id,id,sepal length,sepal width,petal length,petal width\n1,2,5,3,1,0\n")
    Image.new("L", (8, 8)).save(places["image"])
    typed = [word.format(**places) for word in words]
    assert refused(root, "predict", *typed, exit_code=code) == message.format(**places)


def test_a_header_of_numbers_gives_no_answer(root: Path, tmp_path: Path) -> None:
    """pandas writes such a header for columns without names."""
    file = tmp_path / "a.csv"
    file.write_text("0,1,2,3\n5.1,3.5,1.4,0.2\n6,3,4.8,1.8\n")
    found = json.loads(invoke(root, "predict", IRIS, str(file), "--json")[0])
    assert [row["input"] for row in found] == [f"{file}:2", f"{file}:3"]
    assert [row["probability"] for row in found] == pytest.approx(softmax(root).max(1).tolist(), rel=1e-4)
    file.write_text("0,1,2,3\n")
    assert refused(root, "predict", IRIS, str(file), exit_code=3) == f"{file} has a header but no rows"


# Streams and names of files


def process(root: Path, *words: Any, given: bytes = b"", exit_code: int = 0, shell: str = "") -> tuple[str, str]:
    """stdout and stderr of a command in a new process. shell: a line in which "$@" is the command."""
    command = [sys.executable, "-m", "dlcli", *words, "--runs-dir", str(root)]
    command = ["bash", "-c", shell, "bash", *command] if shell else command
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    done = subprocess.run(command, env=environment, input=given, capture_output=True, timeout=300)
    assert done.returncode == exit_code, done
    return done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_rows_come_from_standard_input(root: Path, name: str) -> None:
    out, err = process(root, "predict", IRIS, name, "--keep", "id", "--json", given=b"\xef\xbb\xbf" + ROWS.encode())
    assert err == ""
    assert [(row["input"], row["id"]) for row in json.loads(out)] == [("/dev/stdin:2", "007"), ("/dev/stdin:3", "-8")]
    assert [row["probability"] for row in json.loads(out)] == pytest.approx(softmax(root).max(1).tolist(), rel=1e-4)


@pytest.mark.slow
def test_other_ways_to_give_standard_input(root: Path, rows: str) -> None:
    expected = [row["probability"] for row in json.loads(invoke(root, "predict", IRIS, rows, "--json")[0])]
    for shell in (f'"$@" - --json < {rows}', f'"$@" /dev/stdin --json < {rows}', f'"$@" <(cat {rows}) --json'):
        out, _ = process(root, "predict", IRIS, shell=shell)
        assert [row["probability"] for row in json.loads(out)] == expected


def test_texts_and_rows_of_pixels_come_from_standard_input(root: Path, tmp_path: Path) -> None:
    (row,) = json.loads(process(root, "predict", TEXT, "-", "--json", given=b"to be or not to be\r\n")[0])
    assert (row["input"], row["characters"]) == ("/dev/stdin", 19)
    pixels = builtin.digits(tmp_path).x[0].flatten().tolist()
    (row,) = json.loads(process(root, "predict", DIGITS, "-", "--json", given=",".join(map(str, pixels)).encode())[0])
    assert row["input"] == "/dev/stdin:1"


@pytest.mark.parametrize(
    ("given", "shell", "message"),
    [
        (b"", "", "/dev/stdin is empty"),
        (b"1,2,3\n", "", "/dev/stdin:1 has 3 values, but 4 are needed"),
        (b"\xff\n", "", "/dev/stdin:1 is not UTF-8 text: byte 0 is 0xff; save the file as UTF-8"),
        (b"", '"$@" <&-', "/dev/stdin is empty"),  # closed
    ],
)
def test_faults_of_standard_input_are_told(root: Path, given: bytes, shell: str, message: str) -> None:
    out, err = process(root, "predict", IRIS, "-", given=given, shell=shell, exit_code=3)
    assert (out, err) == ("", f"error: {message}\n")


@pytest.mark.slow
def test_names_that_are_not_utf8(root: Path, tmp_path: Path) -> None:
    file = os.path.join(os.fsencode(tmp_path), b"caf\xe9.csv")
    Path(os.fsdecode(file)).write_text("5.1,3.5,1.4,0.2\n")
    (row,) = json.loads(process(root, "predict", IRIS, file, "--json")[0])
    assert os.fsencode(row["input"]) == file + b":1"
    assert "caf\N{REPLACEMENT CHARACTER}.csv:1 " in process(root, "predict", IRIS, file)[0]
    assert "caf\N{REPLACEMENT CHARACTER}.csv:1," in process(root, "predict", IRIS, file, "--csv")[0]
    os.unlink(file)
    out, err = process(root, "predict", IRIS, file, exit_code=3)
    assert (out, err) == ("", f"error: {tmp_path}/caf\N{REPLACEMENT CHARACTER}.csv does not exist\n")


# generate


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ("--seed", str(2**64)),
            2,
            "seed = 18446744073709551616 is out of range: it must be in [0, 18446744073709551616)",
        ),
        (("--seed", "-1"), 2, "seed = -1 is out of range: it must be in [0, 18446744073709551616)"),
        (("--temperature", "1e-320"), 2, "temperature = 1e-320 is out of range: it must be 0, or from 1e-06 to 1e+06"),
        (("--temperature", "nan"), 2, "temperature = nan is out of range: it must be 0, or from 1e-06 to 1e+06"),
        (("--temperature", "inf"), 2, "temperature = inf is out of range: it must be 0, or from 1e-06 to 1e+06"),
    ],
)
def test_generate_says_what_is_wrong_before_it_writes_anything(
    words: tuple[str, ...], code: int, message: str, root: Path
) -> None:
    assert refused(root, "generate", TEXT, "--prompt", "to be", *words, exit_code=code) == message


def test_a_model_of_no_use_writes_no_prompt(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_no_use(*_: Any) -> None:
        raise RunError("its weights are of no use")

    monkeypatch.setattr(Restored, "_finite", of_no_use)
    assert refused(root, "generate", TEXT, "--prompt", "to be", exit_code=4) == "its weights are of no use"


def test_generate_begins_with_the_prompt(root: Path) -> None:
    for words in ((), ("--seed", str(2**64 - 1)), ("--temperature", "0"), ("--temperature", "1e-6")):
        typed = ("generate", TEXT, "--prompt", "to be", "--length", "7", *words)
        out, err = invoke(root, *typed)
        assert out.startswith("to be") and len(out) == len("to be") + 7 + 1 and err == ""
        document = json.loads(invoke(root, *typed, "--json")[0])
        assert document["prompt"] + document["text"] + "\n" == out


def test_a_config_with_a_byte_order_mark(root: Path, tmp_path: Path) -> None:
    toml, lines = tmp_path / "a.toml", 'epochs = 3\n[model]\nname = "mlp"\n'
    for file, content in ((toml, lines), (tmp_path / "a.json", '{"model": "mlp", "epochs": 3}')):
        file.write_bytes(b"\xef\xbb\xbf" + content.encode())
        found = json.loads(invoke(root, "train", "--config", str(file), "--print-config", "--json")[0])
        assert (found["model"]["name"], found["epochs"]) == ("mlp", 3)
    toml.write_bytes(lines.encode("utf-16"))
    assert refused(root, "train", "--config", str(toml), exit_code=2) == (
        f"config file {toml} cannot be read: it is not UTF-8 text"
    )
