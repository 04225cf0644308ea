"""dlcli: a command-line experiment runner for deep learning on PyTorch.

The command line is a coat over this library:

    from dlcli import TrainConfig, train
    for epoch in train(TrainConfig(model="cnn", data="digits", lr=0.1)):
        print(epoch.step, epoch.metrics)

The names below load their module when first used, so that `import dlcli` costs nothing.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dlcli.config import TrainConfig as TrainConfig
    from dlcli.evaluation import evaluate as evaluate
    from dlcli.runs import Run as Run
    from dlcli.summary import frame as runs_frame
    from dlcli.training.loop import train as train

_PUBLIC = {
    "Run": "dlcli.runs:Run",
    "TrainConfig": "dlcli.config:TrainConfig",
    "evaluate": "dlcli.evaluation:evaluate",
    "runs_frame": "dlcli.summary:frame",
    "train": "dlcli.training.loop:train",
}

__all__ = ["Run", "TrainConfig", "__version__", "evaluate", "runs_frame", "train"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'dlcli' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _PUBLIC[name].split(":")
    return getattr(import_module(module), attribute)
