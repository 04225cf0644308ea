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
) -> list[Prediction]:
    """What a trained run says of files, in order; the same as `dlcli predict`.

    run: a Run, a path (`runs/3`), or a name as the command line takes it (`3`, `latest`, `best:accuracy`).
    inputs: one file or several: images or folders of them, .csv files with one sample per row, texts.
    checkpoint: `best` or `last`.
    Raises DataError (exit 3) with the file and, for rows, the line.
    """
    files = [inputs] if isinstance(inputs, str | Path) else inputs
    restored = restore(as_run(run), role=checkpoint, device=device)
    return list(predictions(restored, [str(file) for file in files]))
