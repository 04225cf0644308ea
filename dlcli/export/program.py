"""Traces the wrapped model with torch.export; formats onnx, pt2 and aoti are made from the result."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dlcli.core.errors import RunError
from dlcli.data.kinds import input_dtype
from dlcli.data.preprocessing import Preprocessing
from dlcli.export.columns import groups_of
from dlcli.export.signature import BATCH, STATE, STEPS, Port, Signature
from dlcli.export.wrapper import Exportable, TableExportable
from dlcli.tasks.task import AnsweringTask, Shape

# Batch sizes to trace with. The batch size must differ from all other sizes, or torch would treat them as the same; and
# torch treats 0 and 1 specially.
_BATCH_SIZES = (3, 5, 7, 11, 13)

# Steps. Sequences of no more have a fixed length: half of it, which is tried too, is special to torch.export.
_SHORT = 5


@dataclass(frozen=True)
class Traced:
    """note: a dimension that had to be fixed, as a phrase for the report; empty if there is none."""

    program: torch.export.ExportedProgram
    signature: Signature
    note: str = ""


def trace(module: Exportable, about: Preprocessing, task: AnsweringTask, *, raw: bool, name: str) -> Traced:
    """`module` traced with a dynamic batch size, and a dynamic number of steps if the model allows it.

    raw: see `sample_ports`. name: of the model, for errors. RunError (exit 4) if torch.export cannot trace it.
    """
    program, note, spec = None, "", about.spec
    ports, sequence = sample_ports(about, raw=raw), spec.kind == "tokens"
    if sequence and spec.input_shape[0] > _SHORT:
        # Not the greatest length, or torch might assume that it is the only one.
        shorter = [replace(port, shape=(BATCH, spec.input_shape[0] - 1)) for port in ports]
        program = _export(module, shorter, free_steps=True, name=name)
        if not isinstance(_input_shape(program)[1], torch.SymInt):
            program = None
    if program is None:
        program = _export(module, ports, free_steps=False, name=name)
        if sequence:
            note = f"accepts only sequences of {spec.input_shape[0]} steps: torch.export fixed that length"
    _forget_sources(program)
    steps, most = _input_shape(program)[1], None
    free = isinstance(steps, torch.SymInt)
    if free:
        upper = program.range_constraints[steps.node.expr].upper
        most = int(upper) if upper.is_Integer and upper < 2**31 else None
    signature = signature_of(about, task, module.state_shape, raw=raw, free_steps=free, most_steps=most)
    return Traced(program, signature, note)


def _export(module: Exportable, ports: Sequence[Port], *, free_steps: bool, name: str) -> torch.export.ExportedProgram:
    batch = next(size for size in _BATCH_SIZES if not any(size in port.shape for port in ports))
    inputs: tuple[Tensor, ...] = tuple(
        torch.zeros([batch, *map(int, port.shape[1:])], dtype=getattr(torch, port.dtype)) for port in ports
    )
    free_batch = torch.export.Dim(BATCH, min=1)
    sizes: dict[int, Any] = {0: free_batch, 1: torch.export.Dim.AUTO} if free_steps else {0: free_batch}
    free: tuple[Any, ...] = (sizes,) * len(ports)
    if isinstance(module, TableExportable):
        free = (free,)  # of *groups
    if module.state_shape:
        inputs += (torch.zeros([batch if size is None else size for size in module.state_shape]),)
        free += ({module.state_shape.index(None): free_batch},)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module, inputs, dynamic_shapes=free, strict=False)
    except Exception as error:  # torch's tracer raises many classes of exceptions
        raise RunError(f"torch.export cannot follow model {name}: {first_line(error)}") from error


def sample_ports(about: Preprocessing, *, raw: bool) -> tuple[Port, ...]:
    """The inputs of the sample: one, or of a table one for each group of columns. raw: that of the model itself."""
    if about.encoding is not None and not raw:
        return tuple(group.port() for group in groups_of(about.encoding))
    dtype = str(input_dtype(about.spec)).removeprefix("torch.")
    return (Port(about.spec.kind, dtype, (BATCH, *about.spec.input_shape)),)


def signature_of(
    about: Preprocessing,
    task: AnsweringTask,
    state: tuple[int | None, ...],
    *,
    raw: bool,
    free_steps: bool = False,
    most_steps: int | None = None,
) -> Signature:
    """Names, dtypes and shapes of inputs and outputs.

    state: shape of a recurrent model's state, with None for the batch; empty without one. raw: see `sample_ports`.
    free_steps: whether the number of steps is dynamic. most_steps: the longest sequence.
    """
    shape: Shape = (STEPS,) if free_steps else about.spec.input_shape
    inputs = list(sample_ports(about, raw=raw))
    if free_steps:
        inputs = [replace(port, shape=(BATCH, STEPS)) for port in inputs]
    outputs = [Port(task.answer_name, "float32", (BATCH, *task.answer_shape(shape, about.spec.outputs)))]
    if state:
        sizes = tuple(BATCH if size is None else size for size in state)
        inputs.append(Port(STATE, "float32", sizes))
        outputs.append(Port("next_state", "float32", sizes))
    return Signature(tuple(inputs), tuple(outputs), most_steps)


def _input_shape(program: torch.export.ExportedProgram) -> Any:
    first = program.graph_signature.user_inputs[0]
    return next(node.meta["val"].shape for node in program.graph.nodes if node.name == first)


def _forget_sources(program: torch.export.ExportedProgram) -> None:
    """Remove the file and line that torch records for each operation: they are local paths."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
                node.meta.pop("custom", None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress what torch and other libraries print, warn and log inside the block; errors are raised as usual."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def first_line(error: BaseException) -> str:
    """The first line of an error message that is not empty; torch's further lines are paths and advice."""
    lines = [line.strip() for line in str(error).splitlines()]
    found = next((line for line in lines if line), type(error).__name__)
    return re.sub(r"\s+", " ", found).rstrip(".")
