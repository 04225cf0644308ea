"""Quantises an ONNX model to 8-bit integers with ONNX Runtime's quantizer.

A model with convolutions is quantised statically: the ranges of the inputs of its layers are measured on samples of the
training split. Any other model is quantised dynamically: ranges are measured at run time. Weights have one scale per
channel and use 7 of the 8 bits: processors without VNNI add two products of 8-bit numbers in 16 bits, which may
overflow (ONNX Runtime's documentation of quantization, "reduce_range").
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dlcli.export import onnx_runtime
from dlcli.export.program import quiet

Samples = Mapping[str, np.ndarray]
_BATCH = 32


def dynamic(content: bytes) -> bytes:
    onnx_runtime.load()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, quiet():
        source, target = _written(folder, content)
        # The body of a GRU's loop is a subgraph.
        quantize_dynamic(
            source,
            target,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_stacked(content),
            extra_options={"EnableSubgraph": True},
        )
        return target.read_bytes()


def static(content: bytes, samples: Samples) -> bytes:
    """samples: name of an input -> (N, ...) values for the calibration of the ranges."""
    onnx_runtime.load()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            rows = len(next(iter(samples.values())))
            self.batches = iter(
                {name: values[start : start + _BATCH] for name, values in samples.items()}
                for start in range(0, rows, _BATCH)
            )

        def get_next(self) -> Samples | None:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as folder, quiet():
        source, target = _written(folder, content)
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        )
        return target.read_bytes()


def _stacked(content: bytes) -> list[str]:
    """The products with more than one constant matrix, as in `tabular`: ONNX Runtime refuses them as 8-bit integers."""
    import onnx

    graph = onnx.load_from_string(content).graph
    stacks = {weight.name for weight in graph.initializer if len(weight.dims) > 2}
    return [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in stacks]


def _written(folder: str, content: bytes) -> tuple[Path, Path]:
    source = Path(folder) / "float.onnx"
    source.write_bytes(content)
    return source, Path(folder) / "int8.onnx"
