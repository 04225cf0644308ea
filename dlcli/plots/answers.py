"""What a run answers to each sample of a split: as `dlcli eval` stored it, else from the checkpoint."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlcli.core.documents import TABLE, check
from dlcli.core.errors import RunError
from dlcli.core.reading import read_json, told_as_damage
from dlcli.core.spec import DataSpec
from dlcli.plots.pixels import AS_TRAINED, Place
from dlcli.runs.run import Run
from dlcli.runs.sample_answers import read_answers

if TYPE_CHECKING:
    import numpy as np

    from dlcli.data.dataset import Dataset

    Array = np.ndarray[Any, Any]


_MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Answers:
    """N samples, K classes. names: of the classes; empty for a regression.

    target, predicted: (N,) classes, or values in the units of the target. confidence: (N,) the probability of the
    predicted class; None for a regression. probabilities: (N, K) of each class; None if only the confidence is known.
    index: (N,) the rows of the samples in the data.
    """

    run: Run
    split: str
    names: tuple[str, ...]
    index: "Array"
    target: "Array"
    predicted: "Array"
    confidence: "Array | None" = None
    probabilities: "Array | None" = None

    @property
    def of_second(self) -> "Array":
        """Of two classes, the probability of the second: (N,)."""
        import numpy as np

        assert self.confidence is not None
        confidence = self.confidence.astype(np.float64)
        return np.where(self.predicted == 1, confidence, 1 - confidence)


def task_of(run: Run) -> str:
    """binary, multiclass, regression or next-token. RunError (exit 4) if data.json is damaged."""
    return _spec(run).task


def answers(
    run: Run,
    split: str,
    *,
    every_class: bool = False,
    place: Place = AS_TRAINED,
    loaded: "Dataset | None" = None,
) -> Answers:
    """The answers of the best checkpoint. Stored ones are taken if they are of that checkpoint.

    every_class: of more than two classes, the probability of each is needed, which is not stored. place: where the data
    is; stored answers are not taken if it names other data. loaded: the run's data, if it is in memory.
    The task has one answer to a sample: it is not next-token.
    """
    task = task_of(run)
    if not (every_class and task == "multiclass") and place.data is None and is_stored(run, split):
        found = read_answers(run, split)
        names = _class_names(run) if found.of_classes else ()
        return _sound(Answers(run, split, names, found.index, found.target, found.predicted, found.probability))
    from dlcli.evaluation.measure import answer_split

    found_now = answer_split(run, split, data=place.data, data_dir=place.folder, loaded=loaded)
    measured = {name: tensor.cpu().numpy() for name, tensor in found_now.items()}
    return Answers(
        run,
        split,
        () if task == "regression" else _class_names(run),
        measured["index"],
        measured["target"],
        measured["predicted"],
        measured.get("probability"),
        measured.get("probabilities"),
    )


def is_stored(run: Run, split: str) -> bool:
    """Whether `dlcli eval` stored the answers of the present best checkpoint."""
    file = run.path / "eval" / f"{split}.json"
    if not file.exists():
        return False
    record, best = read_json(file), run.info().get("best") or {}
    return isinstance(record, dict) and record.get("file") is not None and record.get("step") == best.get("step")


def _sound(found: Answers) -> Answers:
    """RunError unless the answers name classes that there are, with probabilities, or are finite numbers."""
    import numpy as np

    file = found.run.path / "eval" / f"{found.split}.json"
    for array in (found.target, found.predicted):
        if found.confidence is None:
            if not np.isfinite(array).all():
                raise RunError(f"{file} is damaged: an answer is not finite")
        elif len(array) and not 0 <= int(array.min()) <= int(array.max()) < len(found.names):
            raise RunError(f"{file} is damaged: an answer is none of the {len(found.names)} classes")
    if found.confidence is not None and not ((found.confidence >= 0) & (found.confidence <= 1)).all():
        raise RunError(f"{file} is damaged: a probability is not between 0 and 1")
    return found


def _class_names(run: Run) -> tuple[str, ...]:
    """The names of all classes; their numbers if they have none."""
    about, spec = run.data(), _spec(run)
    count = 2 if spec.task == "binary" else spec.outputs
    if count > _MOST_CLASSES:
        raise RunError(f"{run} has {count:,} classes: at most {_MOST_CLASSES:,} can be drawn")
    names = about.get("class_names") or []
    if isinstance(names, list) and len(names) == count and all(isinstance(name, str) for name in names):
        return tuple(names)
    return tuple(str(k) for k in range(count))


def _spec(run: Run) -> DataSpec:
    with told_as_damage(run.path / "data.json"):
        about = run.data()
        check(about, {"spec": TABLE}, needed=True)
        return DataSpec.from_dict(about["spec"])
