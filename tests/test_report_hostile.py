"""Names and texts of data and runs stay text in `dlcli report`, whatever they are: no markup, no script, no link."""

import base64
import hashlib
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.core import wording
from dlcli.core.files import write_json
from dlcli.core.reading import read_json
from dlcli.runs.run import Run
from tests import test_report
from tests.pages import Page
from tests.test_report import make, measure, page, report

root = test_report.root

HOSTILE = {
    "script": "</title><script>alert(1)</script>",
    "attribute": "\"onload=alert(1) ' onerror='alert(1)' autofocus onfocus=alert(1) x=\"",
    "cdata": "]]><![CDATA[<b>",
    "table": "</td></tr></table><h1>big</h1>",
    "image": "<img src=x onerror=alert(1)>",
    "svg": "</svg><svg onload=alert(1)><style>*{display:none}</style>",
    "style": "</style><style>*{display:none}</style>",
    "comment": "--><!--",
    "entity": "&lt;script&gt;&#60;b&#62;&amp;&quot;",
    "frame": "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "turned": "\u202eabc\u2066\u2067def\u200f\u061c",
    "control": "nul\x00bell\x07\x1b[31mred\x9b31m\x7f",
    "separators": "one\u2028two\u2029three\r\nfour\n\n# five\n- six\n> seven",
    "surrogate": "\ufffe\uffff\U0001f600",
    "long": "x" * 5000,
    "link": "[x](javascript:alert(1)) ![y](http://evil.example/z.png) [z]: http://evil.example",
    "address": "http://evil.example/ www.evil.example mail@evil.example <http://evil.example>",
    "emphasis": "**bold** _it_ *it* ~~gone~~ `code` ``` | cell | cell",
    "line": "# heading",
    "mention": "@someone #1 $x^2$ \\* \\[",
}  # fmt: skip

_TAGS = set(
    (
        "html head meta title style body a header h1 h2 h3 p nav ul li bdi main section div table caption thead "
        "tbody tr th td details summary figure figcaption pre img span script svg g path rect text"
    ).split()
)
_ATTRIBUTES = set(
    (
        "lang charset http-equiv content name class href id aria-label role tabindex scope data-n alt src xmlns "
        "viewbox width height transform x y font-size font-weight d stroke stroke-opacity stroke-width stroke-linejoin "
        "stroke-dasharray fill fill-opacity text-anchor pointer-events"
    ).split()
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufffe\uffff]")


def hostile(root: Path, name: str, *, seed: int = 0) -> Run:
    """A run in which every text that is not checked when it is written is `name`."""
    run = make(root, seed=seed, model_options={"hidden": 1})
    write_json(run.path / "config.json", read_json(run.path / "config.json") | {"monitor": name, "teacher": name})
    about = read_json(run.path / "data.json")
    write_json(run.path / "data.json", about | {"class_names": [name, "b"], "feature_names": [name, name, "c"]})
    texts = (
        "model data device cpu platform torch python cuda command git_commit git_remote warning reason fingerprint "
        "dlcli"
    ).split()
    run.write_info(
        run.info() | dict.fromkeys(texts, name) | {
            "environment": {name: name}, "metrics": {name: 0.5, "val/loss": 1.0}, "baseline": {name: 0.25},
            "resumes": [{"step": 1, "after": name, "not_exact": [name]}], "teacher": {name: name},
            "weights": {"of": name}, "parents": [{"run": name, "checkpoint": name}],
        }
    )  # fmt: skip
    (run.path / "note.txt").write_bytes(name.encode(errors="replace"))
    (run.path / "tags.txt").write_bytes(name.encode(errors="replace"))
    (run.path / "name.txt").write_bytes(name.encode(errors="replace"))
    measure(run, names=(name, "b"), data=name, undefined={name: name}, metrics={name: 1.5, "accuracy": 0.5},
            importance={"columns": [{"column": name, name: 0.5}]})  # fmt: skip
    parity = {"holds": False, "faults": [name], "split": name, "samples": 6}
    run.write_record("export", "onnx", {"name": name, "format": name, "size": 1, "parity": parity})
    return run


def check_page(found: Page) -> None:
    """No element, attribute or address that the page does not make itself; scripts and styles are those it allows."""
    assert {tag for tag, _ in found.tags} <= _TAGS
    assert {name for _, attributes in found.tags for name in attributes} <= _ATTRIBUTES
    assert not _CONTROL.search(found.content)
    for tag, attributes in found.tags:
        if "href" in attributes:
            assert tag == "a" and re.fullmatch("#[a-z0-9-]+", str(attributes["href"]))
        if "src" in attributes:
            assert tag == "img" and str(attributes["src"]).startswith("data:image/png;base64,")
    policy = next(a["content"] for t, a in found.tags if t == "meta" and "http-equiv" in a)
    hashes = {
        kind: base64.b64encode(hashlib.sha256("".join(contents).encode()).digest()).decode()
        for kind, contents in (("style", found.styles), ("script", found.scripts))
    }
    assert [tag for tag, _ in found.tags].count("script") == [tag for tag, _ in found.tags].count("style") == 1
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{hashes['style']}'; script-src 'sha256-{hashes['script']}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert not re.search(
        r"@import|url\(|\bimport\b|fetch|XMLHttp|innerHTML|eval\(", hashes and "".join(found.styles + found.scripts)
    )


def flat(text: str) -> str:
    """As a reader sees it: white space joined, control characters replaced."""
    return _CONTROL.sub("\ufffd", " ".join(text.split()))


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_names_stay_text_in_a_page(root: Path, kind: str) -> None:
    name = HOSTILE[kind]
    for seed in range(2):
        hostile(root, name, seed=seed)
    found = page("1:2")
    check_page(found)
    chapter = page("1")
    check_page(chapter)
    if len(name) < 100:  # else it is cut
        for section in (
            "model-and-data",
            "results",
            "worst-mistakes",
            "settings",
            "environment",
            "reproduce",
            "checks",
        ):
            assert flat(name) in flat(chapter.sections[f"run-1-{section}"]), section
        assert flat(name) in flat(found.sections["runs"])
    else:
        assert "x" * 2001 not in re.sub("<pre>.*?</pre>", "", found.content, flags=re.S)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_names_stay_text_in_a_card(root: Path, kind: str) -> None:
    name = HOSTILE[kind]
    for seed in range(2):
        hostile(root, name, seed=seed)
    card = report("1:2", "--md").stdout
    assert not wording.CONTROL.search(card.replace("\n", ""))
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = reader.parse(card)
    inner = [each for token in tokens for each in token.children or []]
    assert {token.type for token in tokens} <= {
        "heading_open", "heading_close", "inline", "paragraph_open", "paragraph_close", "fence",
        *(f"{part}_{end}" for part in ("table", "thead", "tbody", "tr", "th", "td") for end in ("open", "close")),
    }  # fmt: skip
    assert {token.type for token in inner} <= {"text", "text_special", "softbreak"}
    fences = [token for token in tokens if token.type == "fence"]
    assert [token.info for token in fences] == ["", ""] and all(token.markup.startswith("```") for token in fences)
    outside = re.sub(r"^(`{3,})\n.*?^\1$", "", card, flags=re.S | re.M)
    assert not re.search(r"https?://|www\.|(?<!\\)@\w", outside)  # which GitHub would make links of
    texts = ["".join(each.content for each in token.children or []) for token in tokens if token.type == "inline"]
    if len(name) < 100:
        assert sum(flat(name) in text for text in texts) > 20
    tables = _tables(tokens)
    assert len(tables) > 10 and all(len(set(map(len, table))) == 1 for table in tables)


def _tables(tokens: list[Any]) -> list[list[list[str]]]:
    found: list[list[list[str]]] = []
    for token in tokens:
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("th_open", "td_open"):
            found[-1][-1].append("")
    return found


def test_a_command_is_shown_as_it_was_typed(root: Path) -> None:
    command = "dlcli train cnn --note '<b>&\"```' " + "x" * 3000
    run = make(root)
    run.write_info(run.info() | {"command": command})
    content = Path("report.html")
    page("1")
    shown = re.search("<pre>(.*?)</pre>", content.read_text(), re.S)
    assert shown is not None and unescape(shown[1]) == command
    assert f"\n````\n{command}\n````\n" in report("1", "--md").stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run 1: of a table, 2: of texts, 3: of images. The cells, columns, texts and folders have hostile names."""
    folder = tmp_path_factory.mktemp("hostile")
    names = [HOSTILE[kind] for kind in ("script", "attribute", "entity", "turned", "link", "emphasis")]
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    rows = [f"{k % 7},{quoted[k % 6]},{quoted[k % 2]}" for k in range(80)]
    column = quoted[0]
    (folder / "t.csv").write_text("\n".join([f"a,{column},y", *rows, ""]))
    (folder / "x.csv").write_text(
        "\n".join(["text,y", *(f"{quoted[k % 6]},{quoted[k % 5 % 2]}" for k in range(80)), ""])
    )
    for words in (
        ["logistic", "--data", f"table:{folder / 't.csv'}", "--target", "y", "--lr", "0.0001"],
        ["ngrams", "--data", f"texts:{folder / 'x.csv'}", "--target", "y", "--text", "text", "--lr", "0.0001"],
        ["mlp", "--data", "digits", "--lr", "0.0001"],
    ):
        words = [*words, "--epochs", "1", "--eval", "test", "--device", "cpu", "--quiet"]
        done = CliRunner().invoke(app, ["train", *words, "--runs-dir", str(folder / "runs")])
        assert done.exit_code == 0, done.output
    return folder / "runs"


def test_the_worst_mistakes_are_the_samples_themselves(trained: Path, root: Path) -> None:
    found = page("1:3", "--runs-dir", str(trained))
    check_page(found)
    for run, header in ((1, ["row of the data", "target", "answer", "probability", "a"]), (2, ["row of the data"])):
        section = found.sections[f"run-{run}-worst-mistakes"]
        assert all(name in section for name in header), section
        assert any(flat(HOSTILE[kind]) in flat(section) for kind in ("script", "attribute"))
    images = [attributes for tag, attributes in found.tags if tag == "img"]
    assert 0 < len(images) <= 24 and all(re.match(r"row \d+, is \d, not \d \d", str(i["alt"])) for i in images)


def test_samples_that_are_not_there_any_more_are_said(trained: Path, root: Path, tmp_path: Path) -> None:
    moved = trained.with_name("t.csv").rename(trained.with_name("moved.csv"))
    try:
        found = page("1", "--runs-dir", str(trained))
    finally:
        moved.rename(trained.with_name("t.csv"))
    told = found.sections["run-1-worst-mistakes"]
    assert "The samples themselves are not shown: " in told and "t.csv does not exist" in told
    trained.with_name("t.csv").write_text(trained.with_name("t.csv").read_text() + "1,b,c\n")
    assert "has changed since the run was trained on it" in page("1", "--runs-dir", str(trained)).text
