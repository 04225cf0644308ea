"""dlcli: a command-line experiment runner for deep learning on PyTorch.

The command line is a coat over this library:

    from dlcli import TrainConfig, train
    for epoch in train(TrainConfig(model="cnn", data="digits", lr=0.1)):
        print(epoch.step, epoch.metrics)

The names below load their module when first used, so that `import dlcli` costs nothing.
"""

from typing import TYPE_CHECKING, Any

from dlcli.core.version import __version__

if TYPE_CHECKING:
    from dlcli.config.settings import TrainConfig
    from dlcli.core.spec import DataSpec
    from dlcli.data.source import Source
    from dlcli.evaluation.measure import evaluate
    from dlcli.runs.run import Run
    from dlcli.runs.table import frame as runs_frame
    from dlcli.training.train import resume, train

_PUBLIC = {
    "DataSpec": "dlcli.core.spec:DataSpec",
    "Run": "dlcli.runs.run:Run",
    "TrainConfig": "dlcli.config.settings:TrainConfig",
    "evaluate": "dlcli.evaluation.measure:evaluate",
    "Source": "dlcli.data.source:Source",
    "runs_frame": "dlcli.runs.table:frame",
    "resume": "dlcli.training.train:resume",
    "train": "dlcli.training.train:train",
}

__all__ = ["DataSpec", "Run", "Source", "TrainConfig", "__version__", "evaluate", "resume", "runs_frame", "train"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'dlcli' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _PUBLIC[name].split(":")
    return getattr(import_module(module), attribute)
