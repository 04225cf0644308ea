"""`average`: the mean of the weights of several runs, or of several checkpoints of one, as a new run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dlcli.checkpoints import checkpoint
from dlcli.checkpoints.checkpoint import Checkpoint
from dlcli.config.settings import TrainConfig
from dlcli.core.errors import ConfigError, RunError
from dlcli.data.preprocessing import Preprocessing
from dlcli.experiment.build import Experiment, build
from dlcli.experiment.estimate import check_memory, check_space
from dlcli.experiment.guard import check_fit
from dlcli.experiment.load import import_own
from dlcli.experiment.restore import preprocessing_of
from dlcli.runs.given_names import check_free
from dlcli.runs.run import Run
from dlcli.training.normalization import estimate_statistics
from dlcli.training.untrained import parent_record, validation_metrics, write_untrained


@dataclass(frozen=True)
class Averaged:
    """run: the new one. parents: run, checkpoint, epoch, sha256 and metrics of each that went into it. metrics: of the
    average, on the validation split. monitor: the metric that selects its best checkpoint, None without validation.
    notes: sentences about it, for the user."""

    run: Run
    parents: list[dict[str, Any]]
    metrics: dict[str, float | None]
    monitor: str | None
    notes: tuple[str, ...]


def average(
    runs: Sequence[Run], *, runs_dir: str | Path = "runs", role: str = "best", last: int = 0, device: str = "auto",
    name: str | None = None, command: str = "",
) -> Averaged:  # fmt: skip
    """Average the `role` checkpoints of `runs` (a model soup, Wortsman et al. 2022, arXiv:2203.05482), or the `last`
    newest last checkpoints of one run (Izmailov et al. 2018, arXiv:1803.05407).

    The new run has the settings and the splits of the first one. Statistics of batch normalization are estimated on the
    training split, and the metrics on the validation split. Everything is computed before the run is made.
    name: of the new run.
    Raises ConfigError if there are not two checkpoints, RunError if they are not of one architecture, or of runs on the
    same data.
    """
    if name is not None:
        check_free(name, runs_dir)
    _check_count(runs, last)
    first, *others = runs
    config = first.config()
    about = preprocessing_of(first)
    for other in others:
        _check_alike(first, other, config, about)
    for run in runs:
        import_own(run.config(), runs_dir=run.root)
    mean, parents = _mean(_members(runs, role, last))
    if device == "auto" and str(first.info().get("device", "")).startswith("cpu"):
        device = "cpu"
    config = config.replace(teacher="none", cache_features=False)
    built = build(config.with_values(device=device), weights=mean, fingerprint=first.data().get("fingerprint"))
    check_memory(built)
    check_space(built, runs_dir)
    built.model.load_state_dict(mean)
    count = estimate_statistics(built)
    metrics = validation_metrics(built)
    found = Averaged(
        run=write_untrained(
            built,
            metrics,
            {"parents": parents},
            runs_dir=runs_dir,
            name=name,
            command=command,
            epoch=max(parent["epoch"] for parent in parents),
            step=max(parent["step"] for parent in parents),
        ),  # fmt: skip
        parents=parents,
        metrics=metrics,
        monitor=None if built.dataset.val is None else f"val/{built.monitor}",
        notes=_notes(runs, built, about, count),
    )
    for line in (f"the average of {len(parents)} checkpoints", *found.notes):
        found.run.log(line)
    return found


def _check_count(runs: Sequence[Run], last: int) -> None:
    if last and len(runs) > 1:
        raise ConfigError(f"--last {last} averages checkpoints of one run, but {len(runs)} are named: name one")
    if last == 1 or (not last and len(runs) < 2):
        raise ConfigError("an average is of at least two: name several runs, or one with --last N of its checkpoints")
    paths = [run.path.resolve() for run in runs]
    twice = next((run for run, path in zip(runs, paths, strict=True) if paths.count(path) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is named twice: name each run once")


def _check_alike(first: Run, other: Run, config: TrainConfig, about: Preprocessing) -> None:
    """RunError unless both have the same architecture, and data of the same content, classes and encoding."""
    theirs, known = other.config(), preprocessing_of(other)
    if (theirs.model, theirs.model_options) != (config.model, config.model_options):
        options = sorted(
            name for name in {*config.model_options, *theirs.model_options}
            if config.model_options.get(name) != theirs.model_options.get(name)
        )  # fmt: skip
        differs = f"model.{options[0]}" if theirs.model == config.model else "the model"
        raise RunError(f"{other} has another architecture than {first} ({differs} differs): average runs of one model")
    same = other.data().get("fingerprint") == first.data().get("fingerprint")
    pairs = [(known.spec, about.spec), (known.class_names, about.class_names), (known.alphabet, about.alphabet)]
    pairs += [(_plain(known.encoding), _plain(about.encoding)), (_plain(known.tokens), _plain(about.tokens))]
    pairs += [(_plain(known.pieces), _plain(about.pieces))]
    if not same or any(one != another for one, another in pairs):
        raise RunError(f"{other} was trained on other data than {first}: average runs on the same data")


def _plain(part: Any) -> Any:
    return None if part is None else part.as_dict()


def _members(runs: Sequence[Run], role: str, last: int) -> Iterator[tuple[Run, Checkpoint]]:
    """Each checkpoint that is averaged; one is in memory at a time."""
    if not last:
        for run in runs:
            yield run, checkpoint.load(run.checkpoints, role)
        return
    run = runs[0]
    steps = checkpoint.steps(run.checkpoints, "last")
    if len(steps) < last:
        raise RunError(
            f"{run} keeps {len(steps)} last checkpoints, but --last is {last}: train with --keep-last {last}"
        )
    for step in steps[:last]:
        yield run, checkpoint.load(run.checkpoints, "last", step=step)


def _mean(members: Iterator[tuple[Run, Checkpoint]]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The mean of the weights, computed in float64, and what is recorded of each; whole numbers are those of the
    first."""
    total: dict[str, Tensor] = {}
    like: dict[str, Tensor] = {}
    parents: list[dict[str, Any]] = []
    for run, saved in members:
        if like:
            check_fit(like, saved.weights, f"{saved.path} does not fit {parents[0]['run']}")
        like = like or saved.weights
        for name, value in saved.weights.items():
            if value.is_floating_point():
                total[name] = total[name] + value.double() if name in total else value.double()
        parents.append(parent_record(run, saved))
    mean = {
        name: (total[name] / len(parents)).to(value.dtype) if name in total else value for name, value in like.items()
    }
    return mean, parents


def _notes(runs: Sequence[Run], built: Experiment, about: Preprocessing, count: int) -> tuple[str, ...]:
    found = []
    if count:
        found.append(
            f"the statistics of {count} batch normalizations were estimated on {len(built.dataset.train):,} samples"
        )
    if any((preprocessing_of(run).mean, preprocessing_of(run).std) != (about.mean, about.std) for run in runs[1:]):
        found.append(f"the runs were normalised differently, since their splits differ: those of {runs[0]} are taken")
    if built.dataset.val is not None and len({run.config().seed for run in runs}) > 1:
        found.append(
            "the runs have different seeds: some may have been trained on what validates the average; compare them on "
            "the test split"
        )
    return tuple(found)
