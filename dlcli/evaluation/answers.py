"""A run's answers to new inputs, from Python: `dlcli.predict`."""

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
    """What a trained run says of files, in order; the same as `dlcli predict`.

    run: a Run, a path (`runs/3`), or a name as the command line takes it (`3`, `latest`, `best:accuracy`).
    inputs: one file or several: images or folders of them, .csv files with one sample per row, texts.
    checkpoint: `best` or `last`.
    top: how many of the likeliest classes are named. probabilities: that of every class too. keep: columns of .csv
    files that go with each prediction. invert: swap black and white of images.
    Files that are skipped, and images unlike the training data, are told by `logging`.
    Raises ConfigError (exit 2) for what does not go with the model, DataError (exit 3) with the file and, for rows,
    the line.
    """
    files = [inputs] if isinstance(inputs, str | Path) else inputs
    restored = restore(as_run(run), role=checkpoint, device=device)
    found = predictions(
        restored, [str(file) for file in files], top=top, probabilities=probabilities, keep=keep, invert=invert
    )  # fmt: skip
    return list(found)
