"""dlcli: a command-line experiment runner for deep learning on PyTorch.

The command line is a thin layer over this library:

    from dlcli import TrainConfig, train
    for epoch in train(TrainConfig(model="cnn", data="digits", lr=0.1)):
        print(epoch.step, epoch.metrics)

The modules of the names below are imported when first used, so that `import dlcli` is fast. docs/own-code.md has an
example of each.
"""

from typing import TYPE_CHECKING, Any

from dlcli.core.version import __version__

if TYPE_CHECKING:
    from dlcli.config.settings import TrainConfig
    from dlcli.core.errors import DlcliError
    from dlcli.core.spec import DataSpec
    from dlcli.data.source import Source
    from dlcli.evaluation.answers import predict
    from dlcli.evaluation.measure import Evaluation, evaluate
    from dlcli.evaluation.predict import Prediction
    from dlcli.runs.frame import frame as runs_frame
    from dlcli.runs.run import Run
    from dlcli.training.records import Row
    from dlcli.training.train import resume, train

_PUBLIC = {
    "DataSpec": "dlcli.core.spec:DataSpec",
    "DlcliError": "dlcli.core.errors:DlcliError",
    "Prediction": "dlcli.evaluation.predict:Prediction",
    "Evaluation": "dlcli.evaluation.measure:Evaluation",
    "Row": "dlcli.training.records:Row",
    "Run": "dlcli.runs.run:Run",
    "Source": "dlcli.data.source:Source",
    "TrainConfig": "dlcli.config.settings:TrainConfig",
    "evaluate": "dlcli.evaluation.measure:evaluate",
    "predict": "dlcli.evaluation.answers:predict",
    "runs_frame": "dlcli.runs.frame:frame",
    "resume": "dlcli.training.train:resume",
    "train": "dlcli.training.train:train",
}

__all__ = [
    "DataSpec",
    "DlcliError",
    "Evaluation",
    "Prediction",
    "Row",
    "Run",
    "Source",
    "TrainConfig",
    "__version__",
    "evaluate",
    "predict",
    "resume",
    "runs_frame",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'dlcli' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _PUBLIC[name].split(":")
    return getattr(import_module(module), attribute)
