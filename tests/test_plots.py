"""`dlcli plot`: what is drawn is what metrics.csv says; files, and what is refused, left out and said."""

import base64
import csv
import hashlib
import io
import re
import statistics
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dlcli.cli.main import app
from dlcli.core.files import write_json
from dlcli.core.reading import read_json
from dlcli.plots.folder import picture_files
from dlcli.runs.run import Run
from tests import test_differences
from tests.test_start_up import call, heavy_after

SVG = "{http://www.w3.org/2000/svg}"
HEADER = "epoch,step,train/loss,val/loss,val/accuracy,lr,seconds,samples_per_second\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("runs")


def make(root: Path, values: list[float | None], *, seed: int = 0, **settings: Any) -> Run:
    """A run of which train/loss is 2 * value, val/loss value, and val/accuracy 1 - value."""
    run = test_differences.make(root, best=test_differences.BEST, seed=seed, **settings)
    lines = [
        f"{k},{10 * k},{2 * v},{v},{1 - v},0.{k},2.0,50.0\n" if v is not None else f"{k},{10 * k},,,,0.{k},2.0,50.0\n"
        for k, v in enumerate(values, 1)
    ]
    run.metrics_file.write_text(HEADER + "".join(lines))
    return run


def plot(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, ["plot", *words])
    assert done.exit_code == code, done.output
    return done


def numbers(*words: str) -> list[dict[str, str]]:
    plot(*words, "-o", "numbers.csv", "--force")
    return read("numbers.csv")


def read(file: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(Path(file).read_text())))


def line(rows: list[dict[str, str]], panel: str, part: str = "") -> list[tuple[float, float | None]]:
    chosen = [row for row in rows if row["panel"] == panel and (not part or row["part"] == part)]
    return [(float(row["x"]), float(row["y"]) if row["y"] else None) for row in chosen]


def test_the_numbers_are_those_of_metrics_csv_and_a_null_is_a_gap(root: Path) -> None:
    make(root, [0.5, None, 0.25])
    rows = numbers("1")
    assert line(rows, "loss", "train") == [(1, 1.0), (2, None), (3, 0.5)]
    assert line(rows, "loss", "val") == [(1, 0.5), (2, None), (3, 0.25)]
    assert line(rows, "accuracy") == [(1, 0.5), (2, None), (3, 0.75)]
    assert line(numbers("1", "--what", "lr"), "lr") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    plot("1", "-o", "a.svg")
    paths = [path.get("d") or "" for path in ET.parse("a.svg").iter(f"{SVG}path") if path.get("stroke-width") == "1.8"]
    assert sum(path.count("M") == 2 for path in paths) == 3  # each line is in two pieces


@pytest.mark.parametrize(("x", "places"), [("step", [10, 20]), ("time", [2, 4]), ("samples", [100, 200])])
def test_x_is_what_was_asked_for(root: Path, x: str, places: list[float]) -> None:
    make(root, [0.5, 0.25])
    assert [place for place, _ in line(numbers("1", "--x", x, "--metric", "accuracy"), "accuracy")] == places


def test_smoothing_is_an_exponential_mean_without_the_weight_of_its_start(root: Path) -> None:
    make(root, [1.0, 3.0, 5.0])
    found = line(numbers("1", "--metric", "val/loss", "--smooth", "0.5"), "loss, smoothed 0.5")
    expected = [1.0, (0.25 * 1 + 0.5 * 3) / 0.75, (0.125 * 1 + 0.25 * 3 + 0.5 * 5) / 0.875]
    assert [y for _, y in found] == pytest.approx(expected, rel=1e-12)


def test_seeds_become_their_mean_and_standard_deviation(root: Path) -> None:
    values = [[0.5, 0.4], [0.7, 0.1], [0.3, 0.1]]
    for seed, each in enumerate(values):
        make(root, list(each), seed=seed, lr=0.1)
    make(root, [0.9, 0.8, 0.7], lr=0.2)
    rows = numbers("1:4", "--metric", "val/loss", "--group-by", "config")
    three = [row for row in rows if row["line"] == "lr=0.1 (n = 3)"]
    for row, each in zip(three, zip(*values, strict=True), strict=True):
        mean, spread = statistics.fmean(each), statistics.stdev(each)
        found = [float(row[name]) for name in ("y", "low", "high")]
        assert found == pytest.approx([mean, mean - spread, mean + spread], rel=1e-12)
    one = [row for row in rows if row["line"] == "lr=0.2 (n = 1)"]
    assert [row["low"] for row in one] == ["", "", ""]
    shown = plot("1:4", "--metric", "val/loss", "--group-by", "config").output
    assert "".join(row[12] for row in shown.splitlines()[1:17]) == "▲  ····●···     "  # epoch 1: 0.5, from 0.3 to 0.7


def test_a_long_history_is_thinned_and_its_peaks_stay(root: Path) -> None:
    run = make(root, [])
    rows = 600_000  # more than are read whole
    with open(run.metrics_file, "a") as file:
        for k in range(1, rows + 1):
            file.write(f"{k},{k},1,{9.5 if k == 123_457 else 1.0},{-7.5 if k == 555_555 else 0.5},0.1,1,1\n")
    shown = plot("1", "--metric", "val/loss", "-o", "a.csv")
    assert "of long runs only the lowest and highest values of many short intervals are drawn" in shown.output
    points = line(read("a.csv"), "loss")
    assert 1000 <= len(points) <= 4000
    assert (123_457, 9.5) in points and points[0][0] == 1 and points[-1][0] > rows - 1000
    assert (555_555, -7.5) in line(numbers("1", "--metric", "accuracy"), "accuracy")
    assert [x for x, _ in points] == sorted(x for x, _ in points)


def test_up_to_2000_rows_nothing_is_thinned(root: Path) -> None:
    make(root, [1 / k for k in range(1, 2001)])
    shown = plot("1", "--metric", "val/loss", "-o", "a.csv")
    assert len(line(read("a.csv"), "loss")) == 2000
    assert "of long runs" not in shown.output


def test_the_terminal_shows_every_line_with_a_sign_of_its_own_in_80_columns(root: Path) -> None:
    make(root, [0.5, 0.25, 0.125])
    make(root, [0.6, 0.5, 0.4], seed=1)
    shown = plot("1:2").output
    assert max(map(len, shown.splitlines())) <= 80
    signs = re.findall(r"^ {10}(\S) run (\d) (train|val)$", shown.partition("accuracy")[0], re.M)
    assert [sign[1:] for sign in signs] == [("1", "train"), ("1", "val"), ("2", "train"), ("2", "val")]
    assert len({sign[0] for sign in signs}) == 4


def test_a_run_looks_the_same_in_every_picture_and_35_runs_differ(root: Path) -> None:
    for seed in range(36):
        make(root, [0.5, 0.25], seed=seed)
    plot("1:35", "--metric", "accuracy", "-o", "all.svg")
    plot("17", "--metric", "accuracy", "-o", "one.svg")
    looks = {name: _looks(Path(name)) for name in ("all.svg", "one.svg")}
    assert len(set(looks["all.svg"].values())) == 35
    assert looks["one.svg"] == {"run 17 val": looks["all.svg"]["run 17 val"]}


def _looks(file: Path) -> dict[str, tuple[str, str]]:
    """Colour and marker of each line, by its title."""
    found = {}
    for group in ET.parse(file).iter(f"{SVG}g"):
        title = group.find(f"{SVG}title")
        if title is not None:
            found[title.text or ""] = (group.get("stroke") or "", group.findall(f"{SVG}path")[-1].get("d") or "")
    return found


HOSTILE = [
    "</title><script>alert(1)</script>",
    "\"' onload=alert(1) <b>&amp;",
    "\x1b[31mred\x00\x07",
    "\u202eabc]]>",
    "x" * 500,
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", ["svg", "html"])
def test_hostile_names_stay_text(root: Path, name: str, kind: str) -> None:
    for seed, hidden in enumerate([name, "tame"]):
        file = make(root, [0.5, 0.25], seed=seed).path / "config.json"
        write_json(file, read_json(file) | {"data": hidden})
    plot("1:2", "--group-by", "config", "-o", f"a.{kind}")
    text = Path(f"a.{kind}").read_text()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text)
    drawing = ET.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    assert {element.tag.removeprefix(SVG) for element in drawing.iter()} == {
        "svg",
        "title",
        "style",
        "g",
        "path",
        "text",
    }
    assert not any(key.startswith("on") or key == "style" for element in drawing.iter() for key in element.attrib)


def test_a_page_allows_its_own_style_sheets_by_hash_and_nothing_else(root: Path) -> None:
    make(root, [0.5, 0.25])
    plot("1", "-o", "a.html")
    page = Path("a.html").read_text()
    styles = re.findall("<style>(.*?)</style>", page)
    hashes = [base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() for style in styles]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    assert len(hashes) == 2 and f"content=\"default-src 'none'; style-src {allowed}; img-src data:\"" in page
    assert not re.search(r"<script|\bsrc=|href=|url\(|@import", page)


def test_runs_that_cannot_be_drawn_are_left_out_and_named(root: Path) -> None:
    make(root, [0.5, 0.25])
    make(root, [0.5], seed=1).metrics_file.write_text(HEADER.replace("val/accuracy", "val/r2") + "1,10,1,1,1,.1,1,1\n")
    make(root, [0.5], seed=2).metrics_file.write_text(HEADER + "1,10,nan,1,1,.1,1,1\n")
    make(root, [0.5], seed=3).metrics_file.unlink()
    shown = plot("1:4", "--metric", "accuracy", "-o", "a.svg").output
    assert "left out: runs/2 has no accuracy\n" in shown
    assert "left out: runs/4 has no rows yet\n" in shown
    assert "left out: runs/3/metrics.csv is damaged: a value is no number\n" in plot("1,3", "-o", "b.svg").output


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "name the runs to draw: dlcli plot latest"),
        (["1", "--what", "roses"], 2, "--what roses is not one of"),
        (["1", "--smooth", "1"], 2, "--smooth = 1.0 is out of range: it must be in [0, 1)"),
        (
            ["1", "--what", "lr", "--metric", "loss"],
            2,
            "--metric is for --what curves: leave it out, or name such a picture",
        ),
        (["1", "--force"], 2, "--force is for --output FILE: add it, or leave out --force"),
        (["1", "-o", "a.jpg"], 2, "--output a.jpg must end in .svg, .png, .html or .csv"),
        (["1", "-o", "there.svg"], 2, "--output there.svg exists: add --force to replace it, or choose another file"),
        (["1", "-o", "no/a.svg"], 6, "cannot write no/a.svg"),
        (["9"], 4, "there is no run 9 in runs: see `dlcli runs`"),
        (["1", "--metric", "acuracy"], 4, "runs/1 has no acuracy (did you mean val/accuracy?)"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(root: Path, words: list[str], code: int, message: str) -> None:
    make(root, [0.5, 0.25])
    Path("there.svg").write_text("mine")
    shown = plot(*words, code=code).output
    assert shown.startswith(f"error: {message}") and shown.count("\n") == 1
    assert Path("there.svg").read_text() == "mine" and sorted(p.name for p in Path().iterdir()) == ["runs", "there.svg"]


def test_force_replaces_a_file(root: Path) -> None:
    make(root, [0.5, 0.25])
    Path("a.svg").write_text("mine")
    plot("1", "-o", "a.svg", "--force")
    ET.parse("a.svg")


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [1e-320, 2e-320], [1e308, -1e308], [0.0, -1.0]])
@pytest.mark.parametrize("more", [[], ["--log", "y"]])
def test_odd_numbers_are_drawn_inside_the_axes(root: Path, values: list[float | None], more: list[str]) -> None:
    make(root, values)
    plot("1", "--metric", "val/loss", *more)
    plot("1", "--metric", "val/loss", *more, "-o", "a.svg")
    text = Path("a.svg").read_text()
    assert "nan" not in text and "inf" not in text
    for x, y in re.findall(r"translate\((\S+) (\S+)\)", text):
        assert 0 <= float(x) <= 720 and -1 <= float(y) <= 400


def test_drawing_imports_nothing_heavy(root: Path) -> None:
    make(root, [0.5, 0.25])
    assert heavy_after(call("plot", "1", "-o", "a.html")) == []


@pytest.mark.parametrize("has_font", [True, False])
def test_a_folder_gets_a_png_where_there_is_a_font(has_font: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py", reason="resvg is not installed")
    monkeypatch.setattr("dlcli.plots.png._has_font", lambda: has_font)
    assert picture_files("a") == ["a.svg", "a.html", *(["a.png"] if has_font else [])]


def test_a_png_is_the_svg_as_pixels(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resvg = pytest.importorskip("resvg_py", reason="resvg is not installed")
    make(root, [0.5, 0.25])
    letter = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><text y="9">%s</text></svg>'
    if resvg.svg_to_bytes(svg_string=letter % "8") == resvg.svg_to_bytes(svg_string=letter % ""):
        pytest.skip("this machine has no fonts")
    plot("1", "-o", "a.png")
    plot("1", "-o", "a.svg")
    image = Image.open("a.png").convert("RGB")
    sizes = re.search(r'width="(\d+)" height="([\d.]+)"', Path("a.svg").read_text())
    assert sizes is not None and image.size == (2 * int(sizes[1]), round(2 * float(sizes[2])))
    colours = {colour for _, colour in image.getcolors(1 << 20) or []}
    assert (255, 255, 255) in colours and len(colours) > 20  # a line, its markers, and text, smoothed
    drawn = resvg.svg_to_bytes

    def without_fonts(**given: object) -> bytes:
        return bytes(drawn(**given, skip_system_fonts=True))

    monkeypatch.setattr(resvg, "svg_to_bytes", without_fonts)
    shown = plot("1", "-o", "b.png", code=6).output
    assert shown == "error: there is no font on this machine to draw a .png with: install one, or write a .svg\n"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    shown = plot("1", "-o", "b.png", code=2).output
    assert shown == "error: a .png is drawn by resvg: pip install 'dlcli[plots]', or write a .svg\n"
    assert not Path("b.png").exists()
