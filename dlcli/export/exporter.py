"""Writes the artifacts of a run into its folder `export/`. Each is compared with the trained model first.

    export/model.onnx     the artifact; model-half.onnx, model-int8.onnx, model-raw.onnx beside it
    export/onnx.json      its record: signature, preprocessing, sha256, the comparison, times; onnx-half.json, ...

An artifact that fails the comparison is not kept, and an older one of the same name is removed: every file in `export/`
is the one that its record describes.
"""

import hashlib
import importlib.util
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dlcli.core.errors import CheckError, DlcliError, ResourceError, RunError
from dlcli.export import aoti, latency, onnx, parity, pt2, quantize, safetensors
from dlcli.export.child import RuntimeProcess
from dlcli.export.formats import FORMATS, check_formats
from dlcli.export.original import Original
from dlcli.export.program import first_line
from dlcli.export.signature import Signature
from dlcli.export.strings import signature_with_strings, with_strings
from dlcli.runs.run import Run, now

_LATENCY_BATCHES = (1, 64)


@dataclass(frozen=True)
class FormatResult:
    """The result for one format.

    name: `onnx`, `onnx-half`, ... record: as written into the run; None if there was nothing to compare.
    error: why there is no artifact; None if there is one.
    """

    name: str
    record: dict[str, Any] | None
    error: DlcliError | None = None


@dataclass(frozen=True)
class Made:
    """The bytes of an artifact. about: further entries of its record."""

    content: bytes
    signature: Signature
    metadata: dict[str, str]
    about: dict[str, Any]

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def export(
    run: Run,
    formats: Sequence[str] = ("onnx",),
    *,
    half: bool = False,
    quantize: str | None = None,
    raw: bool = False,
    strings: bool = False,
    tolerance: float | None = None,
    data: str | None = None,
    data_dir: str | None = None,
) -> Iterator[FormatResult]:
    """Write the run's best weights in each of `formats`, one after the other; a format that fails does not stop the
    others.

    half: float16 weights and arithmetic. quantize: `int8` or None. raw: without normalisation. strings: categories of a
    table as texts.
    tolerance: replaces the value of `parity.TOLERANCE` for the dtype.
    data: another data set to compare on, of the same shape, as when the run's own was moved.
    data_dir: the folder of data sets, if it is not the one that the training used.
    Raises ConfigError (exit 2) for an unknown format or a combination that is not possible.
    """
    check_formats(formats, half=half, quantize=quantize, strings=strings, raw=raw)
    dtype = quantize or ("float16" if half else "float32")
    original = Original(run, raw=raw, strings=strings, dtype=dtype, data=data, data_dir=data_dir)
    suffix = ("-half" if half else f"-{quantize}" if quantize else "") + ("-raw" if raw else "")
    suffix += "-strings" if strings else ""
    for format in dict.fromkeys(formats):
        name = format + suffix
        try:
            _need_runtime(format)
            made = _written(original, format)
            record = _record(original, made, name=name, format=format, tolerance=tolerance)
            result = _keep(run, made, record, name=name, file=f"model{suffix}{FORMATS[format]}")
        except DlcliError as error:
            result = FormatResult(name, None, error)
        yield result


def _need_runtime(format: str) -> None:
    if format == "onnx":
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if not _is_installed(name)]
        if missing:
            raise ResourceError(
                f"format onnx needs {', '.join(missing)}, not installed here: pip install 'dlcli[export]'"
            )
    if format == "aoti":
        aoti.need_compiler()


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # another object in sys.modules has its name
        return False


def _written(original: Original, format: str) -> Made:
    """As `_make`; RunError (exit 4) if a writer fails, which can happen with a user's own model."""
    try:
        return _make(original, format)
    except (DlcliError, OSError):
        raise
    except Exception as error:  # each writer has its own exception classes
        model = original.restored.config.model
        raise RunError(f"{original.run}: model {model} cannot be written as {format}: {first_line(error)}") from error


def _make(original: Original, format: str) -> Made:
    if format == "safetensors":
        signature, note = original.signature, ""
    else:
        signature, note = original.traced.signature, original.traced.note
        signature = signature_with_strings(signature) if original.strings else signature
    description = {**original.describe(), **signature.as_dict()}
    metadata = {key: value if isinstance(value, str) else _compact(value) for key, value in description.items()}
    about: dict[str, Any] = {**description, "note": note, "damage": list(original.restored.checkpoint.damage)}
    if format == "onnx":
        content = onnx.finish(onnx.write(original.traced), original.traced, metadata)
        if original.dtype == "int8":
            about["float32_size"] = len(content)
            content = onnx.finish(_quantized(original, content), original.traced, metadata)
        if original.strings:
            content = onnx.finish(with_strings(content, original.categories), original.traced, metadata)
        about["opset"] = onnx.opset(content)
        runtime = f"onnxruntime {onnx.runtime_version()}"
    elif format == "pt2":
        content = pt2.write(original.traced, metadata)
        runtime = f"torch.export {torch.__version__}"
    elif format == "aoti":
        content = aoti.write(original.traced, metadata)
        runtime = f"AOTInductor {torch.__version__}"
    else:
        content = safetensors.write(original.restored.model.state_dict(), metadata, dtype=original.torch_dtype)
        runtime = f"safetensors {safetensors.runtime_version()}"
    return Made(content, signature, metadata, {**about, "runtime": runtime})


def _quantized(original: Original, content: bytes) -> bytes:
    if any(isinstance(module, nn.modules.conv._ConvNd) for module in original.module.modules()):
        return quantize.static(content, original.calibration())
    return quantize.dynamic(content)


def _record(original: Original, made: Made, *, name: str, format: str, tolerance: float | None) -> dict[str, Any]:
    about = {"name": name, "format": format, "file": None, "size": len(made.content), "sha256": made.sha256}
    try:
        measured = _measured(original, made, format=format, tolerance=tolerance)
    except CheckError as error:
        measured = {"parity": {"holds": False, "faults": [str(error)]}, "latency": {}, "memory": None}
    return {**about, **made.about, **measured, "threads": torch.get_num_threads(), "when": now()}


def _measured(original: Original, made: Made, *, format: str, tolerance: float | None) -> dict[str, Any]:
    """Comparison, times and memory of the artifact in a fresh process. CheckError if it does not run there."""
    with tempfile.TemporaryDirectory(prefix="dlcli-export-") as temporary, RuntimeProcess(Path(temporary)) as child:
        folder = Path(temporary)
        artifact = folder / f"artifact{FORMATS[format]}"
        artifact.write_bytes(made.content)
        inputs = []
        for port in made.signature.samples:
            inputs.append(str(folder / f"{port.name}.npy"))
            np.save(inputs[-1], original.reference.inputs[port.name], allow_pickle=False)
        metadata = child.ask(
            "open",
            format=format,
            path=str(artifact),
            sha256=made.sha256,
            threads=torch.get_num_threads(),
            signature=made.signature.as_dict(),
        )
        lost = [key for key, value in made.metadata.items() if metadata.get(key) != value]
        if lost:
            raise CheckError(f"its metadata differs from what was written: {', '.join(lost)}")
        child.ask("time", inputs=inputs, batch_size=_LATENCY_BATCHES[-1])
        memory = child.ask("memory")
        found = parity.compare(child, original, made.signature, inputs=inputs, folder=folder, tolerance=tolerance)
        times = {}
        for size in _LATENCY_BATCHES if found.holds else ():
            batch = torch.from_numpy(original.reference.x[:size].copy())
            times[str(size)] = latency.paired(
                lambda size=size: child.ask("time", inputs=inputs, batch_size=size),  # type: ignore[misc]
                lambda batch=batch: original.restored.answer(batch),  # type: ignore[misc]
            )
    return {"parity": found.as_dict(), "latency": times, "memory": memory}


def _keep(run: Run, made: Made, record: dict[str, Any], *, name: str, file: str) -> FormatResult:
    """Write the artifact, then its record, so that the file of a record always exists. If the artifact failed the
    comparison, it is not written and an older one of the same name is removed."""
    faults = record["parity"]["faults"]
    if faults:
        path = run.folder("export") / file
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ResourceError(f"cannot remove {path}: {error.strerror}") from None
    else:
        run.write_file("export", file, made.content)
        record = {**record, "file": file}
    run.write_record("export", name, record)
    told = f"{run}: {name} is not the trained model, and was not kept: {'; '.join(faults)}"
    return FormatResult(name, record, CheckError(told) if faults else None)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
