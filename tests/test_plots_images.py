"""`dlcli plot` of samples, mistakes, filters and fits: the pixels are those of the data and of the weights."""

import base64
import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.runs.run import Run
from dlcli.runs.sample_answers import read_answers
from tests.test_plots import ET, SVG, line, numbers, plot


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run 1: digits with shifts, measured on its test split; 2: a line through the table xy.csv."""
    root = tmp_path_factory.mktemp("images") / "runs"
    x = np.random.default_rng(0).normal(size=300)
    rows = "".join(f"{a!r},{3 * a + b!r}\n" for a, b in zip(x.tolist(), (x**2).tolist(), strict=True))
    root.with_name("xy.csv").write_text("height,weight\n" + rows)
    for words in (
        ["cnn", "--epochs", "1", "--augment", "shift=2", "--eval", "test"],
        ["linear", "--data", f"table:{root.with_name('xy.csv')}", "--target", "weight", "--epochs", "5"],
    ):
        words = ["train", *words, "--device", "cpu", "--quiet", "--runs-dir", str(root)]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    return root


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tiles(root: Path, what: str, *, run: str = "1") -> list[tuple[np.ndarray, list[str]]]:
    """Pixels (H, W) and caption of each tile; the captions are those of the .csv file."""
    words = [run, "--what", what, "--runs-dir", str(root)]
    plot(*words, "-o", "a.svg", "--force")
    images = [image.get("href") or "" for image in ET.parse("a.svg").iter(f"{SVG}image")]
    captions = [row["caption"].split(", ") for row in numbers(*words)]
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(image.partition(",")[2])))) for image in images]
    return list(zip(pixels, captions, strict=True))


def small(pixels: np.ndarray, size: int) -> np.ndarray:
    """Of squares their pixels."""
    step = len(pixels) // size
    found = pixels[::step, ::step]
    assert np.array_equal(found.repeat(step, 0).repeat(step, 1), pixels) and len(pixels) >= 80
    return found


def shifted(image: np.ndarray) -> list[np.ndarray]:
    """All shifts of an 8x8 image by up to two pixels; black comes in."""
    wide = np.pad(image, 2)
    return [wide[top : top + 8, left : left + 8] for top in range(5) for left in range(5)]


def test_samples_are_the_images_as_they_were_augmented(trained: Path) -> None:
    digits = load_digits()
    raw = (digits.images / 16 * 255).round().astype(np.uint8)
    found = tiles(trained, "samples")
    moved = 0
    for pixels, (name,) in found:
        image = small(pixels, 8)
        same = raw[digits.target == int(name)]
        moved += not (same == image).all((1, 2)).any()
        assert any(np.array_equal(image, one) for each in same for one in shifted(each)), name
    assert len(found) == 40 and moved > 30


def test_the_worst_mistakes_come_first_with_the_images_of_their_rows(trained: Path) -> None:
    raw = (load_digits().images / 16 * 255).round().astype(np.uint8)
    stored = read_answers(Run(trained, 1), "test")
    assert stored.probability is not None
    wrong = [(-p, i, t, y) for p, i, t, y in zip(
        stored.probability.tolist(), stored.index.tolist(), stored.target.tolist(), stored.predicted.tolist(),
        strict=True,
    ) if t != y]  # fmt: skip
    expected = [[f"row {i}", f"is {t}", f"not {y} {-p:.1%}"] for p, i, t, y in sorted(wrong)[:40]]
    found = tiles(trained, "errors")
    assert [caption for _, caption in found] == expected
    for pixels, (row, *_) in found:
        assert np.array_equal(small(pixels, 8), raw[int(row.split()[1])])
    shown = plot("1", "--what", "errors", "--runs-dir", str(trained)).output
    assert f"of {len(wrong)} mistakes of {trained}/1 the worst 40 are drawn\n" in shown
    assert "  ".join(expected[0]) in shown


def test_filters_are_those_of_the_checkpoint(trained: Path) -> None:
    (file,) = (trained / "1/checkpoints").glob("best-*/model.safetensors")
    name, weights = next((n, w) for n, w in load_file(file).items() if w.ndim == 4 and w.shape[1] == 1)
    grey = np.round((weights / np.abs(weights).max() + 1) * 127.5)
    for number, (pixels, caption) in enumerate(tiles(trained, "weights")):
        assert caption == [str(number)]
        step = -(-80 // weights.shape[2])
        assert np.abs(pixels[::step, ::step] - grey[number, 0]).max() <= 1
    assert {row["panel"] for row in numbers("1", "--what", "weights", "--runs-dir", str(trained))} == {
        f"{name}, largest weight {np.abs(weights).max():.3g}, run 1"
    }


def test_a_fit_has_the_samples_in_their_units_and_a_straight_line(trained: Path) -> None:
    rows = numbers("2", "--what", "fit", "--runs-dir", str(trained))
    with open(trained.with_name("xy.csv")) as file:
        table = np.array([[float(cell) for cell in row.values()] for row in csv.DictReader(file)])
    samples = np.array([(float(r["x"]), float(r["y"])) for r in rows if r["line"] == "samples"])
    nearest = np.abs(samples[:, None] - table[None]).max(2).min(1)
    assert len(samples) == 60 and nearest.max() < 1e-5
    assert {row["panel"] for row in rows} == {"fit on test, run 2"}
    drawn = np.array([(float(r["x"]), float(r["y"])) for r in rows if r["line"] == "run 2"])
    words = ["predict", "2", str(trained.with_name("xy.csv")), "--json", "--runs-dir", str(trained)]
    told = {round(a, 6): p["value"] for a, p in zip(table[:, 0], json.loads(CliRunner().invoke(app, words).stdout),
                                                    strict=True)}  # fmt: skip
    slope, offset = np.polyfit(drawn[:, 0], drawn[:, 1], 1)
    for x, y in told.items():
        assert y == pytest.approx(slope * x + offset, abs=1e-4)
    worst = numbers("2", "--what", "errors", "--runs-dir", str(trained))
    assert len(worst) == 40 and line(rows, "fit on test, run 2")


def test_data_that_was_moved_is_named(trained: Path, tmp_path: Path) -> None:
    root = shutil.copytree(trained, tmp_path / "runs")
    old, new = trained.with_name("xy.csv"), tmp_path / "moved.csv"
    before = numbers("2", "--what", "fit", "--runs-dir", str(root))
    old.rename(new)
    try:
        gone = plot("2", "--what", "fit", "--runs-dir", str(root), code=3).output
        assert gone.startswith(f"error: {old} does not exist")
        assert numbers("2", "--what", "fit", "--data", f"table:{new}", "--runs-dir", str(root)) == before
    finally:
        new.rename(old)
    wrong = plot("1", "--data", "iris", code=2).output
    assert wrong.startswith("error: --data is for --what confusion, roc, ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["2", "--what", "samples"], "--what samples is for images of 1 or 3 channels, and {}/2 expects features of 1"),
        (["2", "--what", "weights"], "--what weights is for images of 1 or 3 channels, and {}/2 expects features of 1"),
        (["1", "--what", "fit"], "--what fit is for regression, and {}/1 is for multiclass"),
    ],
)
def test_pictures_that_do_not_suit_a_run_are_refused(trained: Path, words: list[str], message: str) -> None:
    shown = plot(*words, "--runs-dir", str(trained), code=2).output
    assert shown == f"error: {message.format(trained)}\n"
    assert "left out: " in plot("1,2", "--what", words[2], "--runs-dir", str(trained), "-o", "a.svg").output
