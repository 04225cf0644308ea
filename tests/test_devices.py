"""Device and precision."""

import pytest
import torch
from torch import nn

from dlcli.compute import devices
from dlcli.core.errors import ConfigError, ResourceError

CPU = torch.device("cpu")


def test_auto_takes_what_is_there() -> None:
    there = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert devices.choose_device("auto").type == there
    assert devices.choose_device("cpu") == CPU


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("gpu", ConfigError, "unknown device 'gpu': use auto, cpu, cuda, cuda:N or mps"),
        ("cuda:x", ConfigError, "unknown device 'cuda:x': use auto, cpu, cuda, cuda:N or mps"),
        ("cuda:\u00b2", ConfigError, "unknown device 'cuda:\u00b2': use auto, cpu, cuda, cuda:N or mps"),
        ("cpu:1", ConfigError, "unknown device 'cpu:1': use auto, cpu, cuda, cuda:N or mps"),
        (
            "cuda",
            ResourceError,
            "device = cuda, but this machine has no usable CUDA device: use --device cpu or auto",
        ),
        ("mps", ResourceError, "device = mps, but this machine has none: use --device cpu or auto"),
    ],
)
def test_a_device_that_is_not_there_is_never_replaced(
    name: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(error) as caught:
        devices.choose_device(name)
    assert str(caught.value) == message


def test_a_number_beyond_the_last_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ResourceError) as caught:
        devices.choose_device("cuda:2")
    assert str(caught.value) == "device = cuda:2, but this machine has cuda:0 to cuda:1"
    assert devices.choose_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("tf32", "precision = tf32 needs a CUDA device, not cpu: use fp32 or bf16"),
        ("fp16", "precision = fp16 needs a CUDA or MPS device: use bf16 on a CPU"),
    ],
)
def test_a_precision_that_the_device_lacks_is_refused(precision: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        devices.check_precision(precision, CPU)
    assert str(caught.value) == message
    devices.check_precision("bf16", CPU)


def test_bf16_computes_in_bf16() -> None:
    layer, x = nn.Linear(4, 4), torch.randn(2, 4)
    with devices.autocast("bf16", CPU):
        assert layer(x).dtype == torch.bfloat16
    with devices.autocast("fp32", CPU):
        assert layer(x).dtype == torch.float32
