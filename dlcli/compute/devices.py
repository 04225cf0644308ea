"""Device, memory and arithmetic."""

import contextlib
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from dlcli.core.errors import ConfigError, ResourceError


def choose_device(name: str, *, process: int = 0) -> torch.device:
    """`auto` is cuda if available, else mps, else cpu. Any other name is that device; if it is missing, exit 6.

    process: which one of those that train together on this machine; without a number in the name, each has a CUDA
    device of its own.
    """
    if process and name in ("auto", "cuda") and torch.cuda.is_available():
        count = torch.cuda.device_count()
        if process >= count:
            raise ResourceError(
                f"process {process + 1} of this machine has no GPU of its own, since there are {count}: start fewer "
                "processes, or name one with --device cuda:0"
            )
        return torch.device("cuda", process)
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and (kind != "cuda" or not re.fullmatch("[0-9]{1,3}", number))):
        raise ConfigError(f"unknown device {name!r}: use auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise ResourceError(
                f"device = {name}, but this machine has no usable CUDA device: use --device cpu or auto"
            )
        if colon and int(number) >= count:
            raise ResourceError(f"device = {name}, but this machine has cuda:0 to cuda:{count - 1}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ResourceError("device = mps, but this machine has none: use --device cpu or auto")
    return torch.device(name)


def memory(device: torch.device | None = None) -> int:
    """Bytes of memory of a CUDA device, or else of this machine, or of the cgroup's limit if that is less."""
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    amount = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        with open("/sys/fs/cgroup/memory.max") as file:
            amount = min(amount, int(file.read()))
    return amount


def check_precision(precision: str, device: torch.device) -> None:
    """ConfigError if the device does not support the precision."""
    if precision == "tf32" and device.type != "cuda":
        raise ConfigError(f"precision = tf32 needs a CUDA device, not {device.type}: use fp32 or bf16")
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision = fp16 needs a CUDA or MPS device: use bf16 on a CPU")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError("precision = bf16 is not supported by this CUDA device: use fp16 or fp32")


def set_precision(precision: str) -> None:
    """Matrix products in full float32, or in TensorFloat-32."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def set_deterministic(wanted: bool) -> None:
    """Use only algorithms that give the same bits each time; an operation without one raises RuntimeError.

    Must be called before CUDA is used: cuBLAS reads its environment variable at that moment.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if wanted != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(wanted)  # imports torch._dynamo, more than a second
    torch.backends.cudnn.deterministic = wanted


def waiting(device: torch.device) -> Callable[[], None]:
    """A function that waits for the device."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The context manager for a forward pass."""
    if precision in ("fp32", "tf32"):
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)
