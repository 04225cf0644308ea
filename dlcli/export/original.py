"""The original of an export: a run's best weights, and their answers on real samples, for the comparison."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dlcli.config.schemes import split_file
from dlcli.core.errors import ConfigError
from dlcli.core.reading import places
from dlcli.core.version import __version__
from dlcli.data.batches import in_order
from dlcli.data.dataset import Dataset
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.source import Source, Unfitted
from dlcli.data.tables.encoding import Column
from dlcli.data.tables.table import Opened
from dlcli.evaluation.measure import finite
from dlcli.experiment.load import check_there, load_data, on_data, read_as_trained
from dlcli.experiment.restore import Restored, restore
from dlcli.export.cells import inputs_of
from dlcli.export.columns import Group, groups_of
from dlcli.export.program import Traced, signature_of, trace
from dlcli.export.signature import Signature
from dlcli.export.strings import CATEGORIES
from dlcli.export.wrapper import Exportable, state_shape, wrap
from dlcli.runs.run import Run

_CALIBRATION = 512  # samples


@dataclass(frozen=True)
class Reference:
    """The trained model's answers on a split, computed as in `dlcli eval` and `dlcli predict`.

    x: (rows, ...) samples for the trained model, normalised for an artifact that is `raw`. inputs: of each input of the
    artifact without a state (rows, ...): x itself, or of a table the cells of its columns. Both have at least 64 rows:
    a shorter split is repeated. samples: length of the split.
    answer: (samples, ...) in the artifact's units. target: (samples, ...). metrics: of the whole split.
    """

    split: str
    samples: int
    x: np.ndarray
    inputs: dict[str, np.ndarray]
    answer: Tensor
    target: Tensor
    metrics: dict[str, float | None]


class Original:
    """The trained model from which artifacts are made and with which they are compared.

    raw: export without normalisation. strings: categories of a table are given as texts.
    dtype: of the artifact's weights: float32, float16 or int8.
    data: another data set of the same shape, whose samples the artifacts answer in the comparison.
    data_dir: the folder of data sets, if it is not the one that the training used.
    source: the data as read. data: the same, split, not normalised. reference: its answers.
    """

    def __init__(
        self,
        run: Run,
        *,
        raw: bool,
        dtype: str,
        strings: bool = False,
        data: str | None = None,
        data_dir: str | None = None,
    ) -> None:
        self.run, self.raw, self.strings, self.dtype = run, raw, strings, dtype
        restored = restore(run, device="cpu")
        # An artifact computes in the dtype of its weights, regardless of the autocast of the training.
        config = restored.config.replace(precision="fp32", data_dir=data_dir or restored.config.data_dir)
        if strings and not any(group.name == CATEGORIES for group in _groups(restored.preprocessing)):
            raise ConfigError(f"--strings is for categories of a table, and {run} has none: leave it out")
        if data is None:
            check_there(config)
        else:
            config = on_data(config, data)
        self.restored: Restored = dataclasses.replace(restored, config=config)
        self.source: Source | Unfitted = read_as_trained(config, self.preprocessing)
        self.data: Dataset = self._raw_data(run.data().get("fingerprint") if data is None else None)
        self.reference: Reference = self._answers()

    @property
    def preprocessing(self) -> Preprocessing:
        return self.restored.preprocessing

    @property
    def categories(self) -> tuple[Column, ...]:
        """The columns of a table that are categories, in the order of the input."""
        return next((group.columns for group in _groups(self.preprocessing) if group.name == CATEGORIES), ())

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.float16 if self.dtype == "float16" else torch.float32

    @cached_property
    def module(self) -> Exportable:
        return wrap(self.restored.model, self.preprocessing, raw=self.raw, dtype=self.torch_dtype)

    @cached_property
    def traced(self) -> Traced:
        name = self.restored.config.model
        return trace(self.module, self.preprocessing, self.restored.task, raw=self.raw, name=name)

    @cached_property
    def signature(self) -> Signature:
        """Of the untraced model."""
        state = state_shape(self.restored.model, self.preprocessing)
        return signature_of(self.preprocessing, self.restored.task, state, raw=self.raw)

    def _raw_data(self, fingerprint: str | None) -> Dataset:
        """The data with its own splits, not normalised; DataError if it is not that of the fingerprint."""
        return load_data(
            self.restored.config,
            device="cpu",
            preprocessing=self.preprocessing.without_normalisation(),
            fingerprint=fingerprint,
            source=self.source,
        )

    def _answers(self) -> Reference:
        split = next(name for name in ("test", "val", "train") if getattr(self.data, name) is not None)
        restored = self.restored
        inputs, answers, targets, measures = [], [], [], []
        for batch in in_order(self.data.split(split), restored.eval_batch_size):
            target = restored.task.normalised(batch.y)
            output = restored.answer(batch.x)
            measures.append(restored.task.measure(output, target))
            inputs.append(self.fed(batch.x))
            answers.append(output if self.raw else restored.task.in_units(output))
            targets.append(target)
        x = torch.cat(inputs).numpy()
        return Reference(
            split=split,
            samples=len(x),
            x=_repeated(x),
            inputs={name: _repeated(values) for name, values in self._inputs(split, x).items()},
            answer=torch.cat(answers),
            target=torch.cat(targets),
            metrics=finite(restored.task.metrics(measures)),
        )

    def fed(self, x: Tensor) -> Tensor:
        """Raw samples in the form that the artifact accepts: normalised if it is `raw`."""
        if self.preprocessing.spec.padding:  # batches of texts are as long as the longest in them
            x = F.pad(x, (0, self.preprocessing.spec.input_shape[0] - x.shape[1]))
        return (self.preprocessing.apply(x) if self.raw else x).contiguous()

    def _inputs(self, split: str, x: np.ndarray, part: Tensor | None = None) -> dict[str, np.ndarray]:
        """Of each input of the artifact the values of a split. x: those of the trained model. part: of which rows."""
        encoding = self.preprocessing.encoding
        if encoding is None or self.raw:
            return {self.preprocessing.spec.kind: x}
        assert isinstance(self.source, Opened)
        table = self.source.part(split, self.data.split(split).index)
        return inputs_of(table if part is None else table.rows(part.numpy()), encoding, strings=self.strings)

    def metrics(self, answer: Tensor, target: Tensor) -> dict[str, float | None]:
        """The task's metrics for an artifact's answers; answers in the target's units are normalised first."""
        task = self.restored.task
        output = answer if self.raw else task.normalised(answer)
        return finite(task.metrics([task.measure(output, target)]))

    def calibration(self) -> dict[str, np.ndarray]:
        """Of each input of the artifact, at most 512 samples, evenly spaced in the training split."""
        train = self.data.train
        some = torch.linspace(0, len(train) - 1, min(_CALIBRATION, len(train))).long()
        x = torch.cat([self.fed(batch.x) for batch in in_order(train.part(some), _CALIBRATION)]).numpy()
        return self._inputs("train", x, some)

    def describe(self) -> dict[str, Any]:
        """The metadata of every artifact, without its signature."""
        config, about, state = self.restored.config, self.preprocessing, self.restored.checkpoint.state
        file, threshold = split_file(config.data), self.restored.task.threshold
        return {
            "dlcli": __version__,
            "run": self.run.number,
            "checkpoint": "best",
            "epoch": state["epoch"],
            "step": state["step"],
            "model": config.model,
            "model_options": config.model_options,
            **({} if config.pruned == "none" else {"pruned": config.pruned}),
            "data": f"{file[0]}:{_name(*file)}" if file else config.data,
            "fingerprint": self.run.data().get("fingerprint"),
            "task": about.spec.task,
            "dtype": self.dtype,
            "raw": self.raw,
            "class_names": list(about.class_names),
            **({} if threshold is None else {"threshold": threshold}),
            "preprocessing": about.as_dict(),
        }


def _groups(about: Preprocessing) -> tuple[Group, ...]:
    return () if about.encoding is None else groups_of(about.encoding)


def _name(kind: str, path: str) -> str:
    """Of a file or folder, or of several, without the folders that it lies in."""
    return ",".join(Path(place).name for place in (places(path) if kind == "text" else [path]))


def _repeated(values: np.ndarray) -> np.ndarray:
    """(N, ...) -> at least 64 rows."""
    return np.resize(values, (64, *values.shape[1:])) if len(values) < 64 else values
