"""How good the classifiers of texts are on real messages, beside scikit-learn's on the same rows: five folds."""

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.benchmarks.noise import Guard
from tests.benchmarks.process import output
from tests.benchmarks.report import markdown, run

TITLE = "Texts"
ROUNDS = 5
ABOUT = """
Mean and standard deviation over the five stratified folds of spam.csv (5,572 messages, 13 % of them spam): accuracy, F1
of spam, and seconds of a fold, all processes included. `ngrams` is trained by its recipe, the others by their defaults;
dlcli holds a tenth of the training rows out, to choose the best epoch, scikit-learn gets all of them. The file lies in
`own/` of `DLCLI_DATA_DIR`; without it there are no rows.
"""

_MODELS = {
    "dlcli ngrams": ("--config", "recipe:ngrams-spam"),
    "dlcli ngrams, words": ("ngrams", "--set", "data.tokens=words", "--set", "model.longest=2"),
}
_PEERS = ("TF-IDF of words, SVM", "TF-IDF of characters, SVM")


def measure(only: str, rounds: int, guard: Guard) -> Iterator[dict[str, Any]]:
    path = Path(os.environ.get("DLCLI_DATA_DIR") or "nowhere") / "own" / "spam.csv"
    if not path.is_file():
        return
    import pandas as pd
    from sklearn.model_selection import StratifiedKFold

    frame = pd.read_csv(path, encoding="latin-1")[["v1", "v2"]]
    folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(frame, frame.v1))
    for name in (name for name in (*_MODELS, *_PEERS) if only in name):
        found = []
        for number, (train, test) in enumerate(folds[:rounds]):
            began = perf_counter()
            figures = _trained(frame, test, name, number) if name in _MODELS else _peer(frame, train, test, name)
            found.append([*figures, perf_counter() - began])
            print(f"{name} {number}: {found[-1]}", file=sys.stderr)
            guard.probe()
        yield {"name": name, "folds": found, "noise": guard.take()}


def _trained(frame: Any, test: Any, name: str, number: int) -> tuple[float, float]:
    """Accuracy and F1 of spam."""
    with tempfile.TemporaryDirectory() as folder:
        part = ["train"] * len(frame)
        for row in test:
            part[row] = "test"
        frame.assign(part=part).to_csv(f"{folder}/fold.csv", index=False)
        data = ("--data", f"texts:{folder}/fold.csv", "--set", "data.split_column=part")
        columns = ("--target", "v1", "--text", "v2")
        how = ("--json", "--runs-dir", f"{folder}/runs")
        output("-m", "dlcli", "train", *_MODELS[name], *data, *columns, "--seed", str(number), "--quiet", *how)
        report = json.loads(output("-m", "dlcli", "eval", "1", "--split", "test", *how))
    (ham, missed), (wrong, hits) = report["confusion"]
    return (ham + hits) / (ham + missed + wrong + hits), 2 * hits / (2 * hits + wrong + missed)


def _peer(frame: Any, train: Any, test: Any, name: str) -> tuple[float, float]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    words = (
        TfidfVectorizer()
        if "words" in name
        else TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    )
    model = make_pipeline(words, LinearSVC()).fit(frame.v2.iloc[train], frame.v1.iloc[train])
    answers = model.predict(frame.v2.iloc[test])
    return accuracy_score(frame.v1.iloc[test], answers), f1_score(frame.v1.iloc[test], answers, pos_label="spam")


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        accuracy, f1, seconds = zip(*row["folds"], strict=True)
        lines.append([row["name"], _spread(accuracy), _spread(f1), f"{statistics.median(seconds):.1f}"])
    return markdown(["", "accuracy", "F1 of spam", "seconds"], lines)


def _spread(values: tuple[float, ...]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


if __name__ == "__main__":
    run(sys.modules[__name__])
