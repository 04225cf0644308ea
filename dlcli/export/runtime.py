"""The process that opens an artifact with its own runtime and runs it.

Each request is a line of JSON on standard input, each answer a line of JSON on standard output; arrays are exchanged as
.npy files. Opening an ONNX file does not import torch.

Opening a .pt2 file can execute code in it, and torch has no option to prevent that. This is the only file of dlcli that
opens one, and it first checks that the sha256 is that of the artifact that the parent process has just made.
"""

import contextlib
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlcli.export import onnx_runtime
from dlcli.export.signature import BATCH, Signature

Arrays = list[np.ndarray]
Model = Callable[[Arrays], Arrays]


class Artifact:
    """An opened artifact. metadata: as stored in it. base: bytes of memory of this process before it was opened.

    ValueError unless the file has this sha256.
    """

    def __init__(self, format: str, path: str, *, sha256: str, threads: int, signature: Signature) -> None:
        open_bytes = _OPENERS[format](threads, signature)
        self.signature = signature
        _forget_peak()
        self.base = _memory("VmRSS")
        content = Path(path).read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError("the file is not the one that was written")
        self.model, self.metadata = open_bytes(content)

    def run(
        self,
        inputs: Sequence[str],
        outputs: str,
        *,
        rows: int,
        batch_size: int,
        steps: int | None = None,
        pieces: int = 1,
    ) -> None:
        """Run the artifact on the first `rows` samples; write the answers to `outputs`.

        inputs: a .npy file for each input, without the state. steps: use only the first steps of each sequence. pieces:
        split each sequence into this many parts and carry the state from each to the next.
        """
        wholes = [np.load(file, mmap_mode="r", allow_pickle=False) for file in inputs]
        answers = []
        for start in range(0, rows, batch_size):
            batch = [np.ascontiguousarray(whole[start : min(start + batch_size, rows)]) for whole in wholes]
            batch = batch if steps is None else [tokens[:, :steps] for tokens in batch]
            state = self._first_state(len(batch[0]))
            parts = []
            for part in [[tokens] for tokens in np.array_split(batch[0], pieces, axis=1)] if pieces > 1 else [batch]:
                answer, *state = self.model([*map(np.ascontiguousarray, part), *state])
                parts.append(answer)
            answers.append(np.concatenate(parts, axis=1) if pieces > 1 else parts[0])
        np.save(outputs, np.concatenate(answers), allow_pickle=False)

    def time(self, inputs: Sequence[str], *, batch_size: int) -> float:
        """Seconds of one evaluation of the first `batch_size` samples."""
        wholes = [np.load(file, mmap_mode="r", allow_pickle=False) for file in inputs]
        batch = [np.ascontiguousarray(whole[:batch_size]) for whole in wholes]
        feeds = [*batch, *self._first_state(len(batch[0]))]
        start = time.perf_counter()
        self.model(feeds)
        return time.perf_counter() - start

    def memory(self) -> int | None:
        """Peak memory of this process, in bytes, above that before the artifact was opened; None if unknown."""
        peak = _memory("VmHWM")
        return None if peak is None or self.base is None else max(0, peak - self.base)

    def _first_state(self, batch_size: int) -> Arrays:
        return [
            np.zeros([batch_size if size == BATCH else int(size) for size in port.shape], dtype=port.dtype)
            for port in self.signature.inputs[len(self.signature.samples) :]
        ]


Opener = Callable[[int, Signature], Callable[[bytes], tuple[Model, dict[str, str]]]]


def _onnx(threads: int, signature: Signature) -> Callable[[bytes], tuple[Model, dict[str, str]]]:
    onnxruntime = onnx_runtime.load()

    def open_bytes(content: bytes) -> tuple[Model, dict[str, str]]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        inputs, outputs = ([port.name for port in ports] for ports in (signature.inputs, signature.outputs))

        def model(feeds: Arrays) -> Arrays:
            return session.run(outputs, dict(zip(inputs, feeds, strict=True)))  # type: ignore[no-any-return]

        return model, dict(session.get_modelmeta().custom_metadata_map)

    return open_bytes


def _pt2(threads: int, signature: Signature) -> Callable[[bytes], tuple[Model, dict[str, str]]]:
    import torch
    import torch.export

    torch.set_num_threads(threads)

    def open_bytes(content: bytes) -> tuple[Model, dict[str, str]]:
        from dlcli.export.pt2 import METADATA

        extra = {METADATA: ""}
        program = torch.export.load(io.BytesIO(content), extra_files=extra)
        return _from_torch(program.module()), json.loads(extra[METADATA])

    return open_bytes


def _aoti(threads: int, signature: Signature) -> Callable[[bytes], tuple[Model, dict[str, str]]]:
    import torch
    import torch._inductor
    import torch._inductor.package

    torch.set_num_threads(threads)

    def open_bytes(content: bytes) -> tuple[Model, dict[str, str]]:
        package = torch._inductor.aoti_load_package(io.BytesIO(content))
        return _from_torch(package), package.get_metadata()

    return open_bytes


def _safetensors(threads: int, signature: Signature) -> Callable[[bytes], tuple[Model, dict[str, str]]]:
    import torch
    from safetensors.torch import load

    from dlcli.config.settings import TrainConfig
    from dlcli.data.preprocessing import Preprocessing
    from dlcli.experiment.guard import build_model, narrow_to
    from dlcli.export.wrapper import kind_of

    torch.set_num_threads(threads)

    def open_bytes(content: bytes) -> tuple[Model, dict[str, str]]:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata: dict[str, str] = header["__metadata__"]
        preprocessing = Preprocessing.from_dict(json.loads(metadata["preprocessing"]))
        config = TrainConfig(metadata["model"], model_options=json.loads(metadata["model_options"]))
        weights = {name: t.float() if t.is_floating_point() else t for name, t in load(content).items()}
        model = build_model(config, preprocessing.spec)
        if metadata.get("pruned") == "structured":
            narrow_to(model, weights, preprocessing.spec, where="the exported file")
        model.load_state_dict(weights)
        raw = json.loads(metadata["raw"])
        kind = kind_of(preprocessing, raw=raw, stateful=signature.stateful)
        return _from_torch(kind(model.eval(), preprocessing, raw=raw)), metadata

    return open_bytes


_OPENERS: dict[str, Opener] = {"onnx": _onnx, "pt2": _pt2, "aoti": _aoti, "safetensors": _safetensors}


def _from_torch(module: Callable[..., Any]) -> Model:
    import torch

    @torch.no_grad()
    def model(feeds: Arrays) -> Arrays:
        found = module(*(torch.from_numpy(feed) for feed in feeds))
        return [t.numpy() for t in (found if isinstance(found, tuple | list) else (found,))]

    return model


def _memory(field: str) -> int | None:
    """Memory of this process in bytes: VmRSS is the current value, VmHWM the peak; None if the system has no /proc."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return None


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _answer(artifact: Artifact | None, do: str, arguments: dict[str, Any]) -> tuple[Artifact | None, Any]:
    if do == "open":
        artifact = Artifact(**arguments | {"signature": Signature.from_dict(arguments["signature"])})
        return artifact, artifact.metadata
    assert artifact is not None
    return artifact, getattr(artifact, do)(**arguments)


def main(arguments: Sequence[str] = ()) -> None:
    """Answer requests until the parent process closes the pipe. Whatever a runtime prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # for a user's own model
    artifact = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            artifact, found = _answer(artifact, request.pop("do"), request)
            answer = {"found": found}
        except Exception as error:  # whatever a runtime raises is a result of the comparison
            answer = {"error": " ".join(str(error).split()) or type(error).__name__}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
