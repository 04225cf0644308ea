"""Format onnx: a traced program as one self-contained ONNX file, with names and metadata, without local paths."""

from collections.abc import Iterator, Mapping
from typing import Any

from dlcli.core.errors import ResourceError
from dlcli.export import onnx_runtime
from dlcli.export.program import Traced, quiet

LARGEST = 2**31 - 1  # bytes in a protobuf message


def write(traced: Traced) -> bytes:
    """The program in ONNX, without metadata; `finish` adds that."""
    import torch

    size = sum(t.nbytes for t in traced.program.state_dict.values())
    if size > LARGEST:
        raise ResourceError(f"format onnx holds at most 2 GB in one file, but the weights have {size / 1e9:.1f} GB")
    with quiet(), torch.no_grad():
        made = torch.onnx.export(
            traced.program,
            dynamo=True,
            external_data=False,
            input_names=[port.name for port in traced.signature.inputs],
            output_names=[port.name for port in traced.signature.outputs],
            verbose=False,
        )
    assert made is not None
    content: bytes = made.model_proto.SerializeToString()
    return content


def finish(content: bytes, traced: Traced, metadata: Mapping[str, str]) -> bytes:
    """The model with named dimensions and metadata, checked by onnx."""
    import onnx

    model = onnx.load_from_string(content)
    names: dict[str, str] = {}
    for value, port in zip(model.graph.input, traced.signature.inputs, strict=True):
        for dimension, size in zip(value.type.tensor_type.shape.dim, port.shape, strict=True):
            if isinstance(size, str):
                names[dimension.dim_param] = size
    for value in (*model.graph.input, *model.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.HasField("dim_param"):
                dimension.dim_param = names[dimension.dim_param]
    for graph in _graphs(model.graph):
        _forget_sources(graph)
    for function in model.functions:
        for node in function.node:
            _clear(node)
    model.doc_string = ""
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    finished: bytes = model.SerializeToString(deterministic=True)
    return finished


def opset(content: bytes) -> int:
    import onnx

    found: dict[str, int] = {entry.domain: entry.version for entry in onnx.load_from_string(content).opset_import}
    return found[""]


def runtime_version() -> str:
    return str(onnx_runtime.load().__version__)


def _graphs(graph: Any) -> Iterator[Any]:
    """`graph` and the graphs inside its nodes, which are bodies of loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _forget_sources(graph: Any) -> None:
    """Remove source files and lines, which are local paths, and the shapes between nodes, which readers infer."""
    del graph.value_info[:]
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        _clear(part)


def _clear(part: Any) -> None:
    part.doc_string = ""
    del part.metadata_props[:]
