"""The export formats. Light: a wrong name is reported before torch is loaded."""

from collections.abc import Sequence

from dlcli.core.errors import ConfigError, did_you_mean

# Format -> file extension.
FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "aoti": ".aoti.pt2", "safetensors": ".safetensors"}


def check_formats(
    formats: Sequence[str], *, half: bool = False, quantize: str | None = None, strings: bool = False, raw: bool = False
) -> None:
    """ConfigError (exit 2) unless all formats exist and can be combined with the options."""
    if not formats:
        raise ConfigError(f"no format was given: choose from {', '.join(FORMATS)}")
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(f"unknown format {name!r}: {did_you_mean(name, FORMATS)}")
    other = [name for name in formats if name != "onnx"]
    if strings and other:
        raise ConfigError(f"--strings is for format onnx, not for {', '.join(other)}: only ONNX has texts in its graph")
    if strings and raw:
        raise ConfigError("--strings and --raw exclude each other: with --raw the program encodes the columns")
    if quantize is None:
        return
    if quantize != "int8":
        raise ConfigError(f"quantize = {quantize} is not offered: use int8")
    if half:
        raise ConfigError("--half and --quantize exclude each other: choose one")
    if other:
        raise ConfigError(f"quantize = int8 is for format onnx, not for {', '.join(other)}")
