"""The weights of a model for TensorBoard: a histogram of each parameter, and a picture of the first layer's filters."""

from torch import nn

from dlcli.compute.histograms import histogram
from dlcli.core.spec import DataSpec
from dlcli.experiment.filters import are_filters, first_weights, in_one_image
from dlcli.experiment.restore import restore
from dlcli.runs import events
from dlcli.runs.run import Run


def of_model(model: nn.Module, spec: DataSpec, *, step: int, time: float) -> bytes:
    """Records of an event file. time: in seconds since 1970."""
    found = {f"weights/{name}": histogram(parameter) for name, parameter in model.named_parameters()}
    content = events.histograms({name: each for name, each in found.items() if each}, step=step, time=time)
    if any(parameter.dim() > 1 for parameter in model.parameters()):
        name, value = first_weights(model, spec)
        if are_filters(value):
            content += events.image(f"filters/{name}", *in_one_image(value), step=step, time=time)
    return content


def of_checkpoints(run: Run, *, time: float) -> bytes:
    """The same of the best and of the last checkpoint of a run, the earlier one first. RunError if it has none."""
    both = {}
    for role in ("best", "last"):
        restored = restore(run, role=role, device="cpu")
        both[int(restored.checkpoint.state["step"])] = restored
    return b"".join(
        of_model(each.model, each.preprocessing.spec, step=step, time=time) for step, each in sorted(both.items())
    )
