"""The name of the processor in /proc/cpuinfo."""

import platform
from pathlib import Path

import pytest

from dlcli.compute import processor

AMD = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (AMD, "AMD EPYC (family 26, model 2)"),
        (AMD + AMD.replace("26", "25"), "AMD EPYC (family 26, model 2)"),
        ("model name\t: ARMv7 Processor rev 3 (v7l)\n", "ARMv7 Processor rev 3 (v7l)"),
        ("processor\t: 0\nCPU implementer\t: 0x41\n", platform.processor() or platform.machine()),
        (None, platform.processor() or platform.machine()),
    ],
)
def test_a_processor_is_called_by_name_and_generation(
    content: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)
    monkeypatch.setattr(processor, "_FILE", str(tmp_path / "cpuinfo"))
    assert processor.processor() == expected
