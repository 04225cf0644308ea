"""Predictions of a run for new inputs, from Python: `dlcli.predict`."""

from collections.abc import Sequence
from pathlib import Path

from dlcli.evaluation.predict import Prediction
from dlcli.evaluation.predict import predict as predictions
from dlcli.experiment.restore import restore
from dlcli.runs.names import as_run
from dlcli.runs.run import Run


def predict(
    run: Run | str | Path,
    inputs: str | Path | Sequence[str | Path],
    *,
    checkpoint: str = "best",
    device: str = "auto",
    top: int = 1,
    probabilities: bool = False,
    keep: Sequence[str] = (),
    invert: bool = False,
) -> list[Prediction]:
    """Predictions for the samples in files, in order; the same as `dlcli predict`.

    run: a Run, a path (`runs/3`), or a name as on the command line (`3`, `latest`, `best:accuracy`).
    inputs: one or more files: images or folders of images, .csv files with one sample per row, texts.
    checkpoint: `best` or `last`.
    top: number of likeliest classes to return. probabilities: also return the probability of every class.
    keep: columns of .csv files to copy to each prediction. invert: swap black and white of images.
    Skipped files, and images unlike the training data, are reported by `logging`.
    Raises ConfigError (exit 2) for an argument that does not fit the model, and DataError (exit 3), which names the
    file and, for rows, the line.
    """
    files = [inputs] if isinstance(inputs, str | Path) else inputs
    restored = restore(as_run(run), role=checkpoint, device=device)
    found = predictions(
        restored, [str(file) for file in files], top=top, probabilities=probabilities, keep=keep, invert=invert
    )  # fmt: skip
    return list(found)
