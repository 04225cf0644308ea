"""TensorBoard's event files: scalars and hyperparameters as framed records, in the messages of the package tensorboard.

A file is a row of TFRecords: length (uint64, little-endian), masked CRC of the length, content, masked CRC of the
content. The content is an `Event` (tensorboard/compat/proto/event.proto). Only the message classes of tensorboard are
used: its own RecordWriter takes four times as long to import, and its EventFileWriter imports TensorFlow if that is
installed.
"""

import struct
from collections.abc import Mapping
from functools import cache
from typing import Any

from dlcli.core.errors import ConfigError

_VERSION = "brain.Event:2"

_FRAME = 16  # bytes around the content of a record

# TensorBoard keeps hyperparameters under these names (tensorboard/plugins/hparams/metadata.py).
_PLUGIN = "hparams"
_SESSION_START, _SESSION_END = "_hparams_/session_start_info", "_hparams_/session_end_info"


def check_installed(*, asked: str) -> None:
    """ConfigError (exit 2) unless the package tensorboard is installed. asked: what asks for it, as typed."""
    try:
        _messages()
    except ImportError:
        raise ConfigError(f"{asked} needs tensorboard: pip install 'dlcli[tensorboard]'") from None


def head(*, time: float) -> bytes:
    """How a file begins. time: in seconds since 1970. TensorBoard drops what it has read from earlier files of the
    same folder, so that no step is shown twice."""
    event, _ = _messages()
    restart = event.SessionLog(status=event.SessionLog.START)
    return _record(event.Event(wall_time=time, file_version=_VERSION)) + _record(
        event.Event(wall_time=time, session_log=restart)
    )


def scalars(values: Mapping[str, float], *, step: int, time: float) -> bytes:
    """A record of values by name. time: in seconds since 1970."""
    event, _ = _messages()
    one = event.Event(wall_time=time, step=step)
    for name, value in values.items():
        one.summary.value.add(tag=name, simple_value=value)
    return _record(one)


def histograms(values: Mapping[str, Mapping[str, Any]], *, step: int, time: float) -> bytes:
    """A record of distributions by name, each of the fields of a HistogramProto. time: in seconds since 1970."""
    event, _ = _messages()
    one = event.Event(wall_time=time, step=step)
    for name, fields in values.items():
        histogram = one.summary.value.add(tag=name).histo
        for field, value in fields.items():
            if isinstance(value, list):
                getattr(histogram, field).extend(value)
            else:
                setattr(histogram, field, value)
    return _record(one)


def image(name: str, height: int, width: int, channels: int, png: bytes, *, step: int, time: float) -> bytes:
    """A record of one picture. height, width: in pixels. time: in seconds since 1970."""
    event, _ = _messages()
    one = event.Event(wall_time=time, step=step)
    found = one.summary.value.add(tag=name).image
    found.height, found.width, found.colorspace, found.encoded_image_string = height, width, channels, png
    return _record(one)


def pictorial(content: bytes, *, until: int) -> bytes:
    """The records of histograms and images in a file, up to this step. What follows a damaged record is left out."""
    event, _ = _messages()
    found, start = [], 0
    while start + _FRAME <= len(content):
        length = content[start : start + 8]
        end = start + _FRAME + (size := int(struct.unpack("<Q", length)[0]))
        inside = content[start + 12 : start + 12 + size]
        if content[start + 8 : start + 12] != _masked_crc(length) or content[end - 4 : end] != _masked_crc(inside):
            break
        try:
            one = event.Event.FromString(inside)
        except ValueError:  # google.protobuf.message.DecodeError
            break
        kinds = {value.WhichOneof("value") for value in one.summary.value}
        if kinds and kinds <= {"histo", "image"} and one.step <= until:
            found.append(content[start:end])
        start = end
    return b"".join(found)


def settings(values: Mapping[str, Any], *, name: str, time: float) -> bytes:
    """The hyperparameters of a run; None is left out. name: of the run, as it is shown. The metrics that belong to them
    are the scalars of the same file."""
    _, plugin = _messages()
    start = plugin.SessionStartInfo(group_name=name, start_time_secs=time)
    for key, value in values.items():
        if isinstance(value, bool):
            start.hparams[key].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[key].number_value = value
        elif value is not None:
            start.hparams[key].string_value = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return _hyperparameters(_SESSION_START, plugin.HParamsPluginData(session_start_info=start), time=time)


def end(*, succeeded: bool, time: float) -> bytes:
    """How the run ended, for the table of hyperparameters. time: in seconds since 1970."""
    from tensorboard.plugins.hparams import api_pb2

    _, plugin = _messages()
    ends: Any = api_pb2
    status = ends.STATUS_SUCCESS if succeeded else ends.STATUS_FAILURE
    told = plugin.SessionEndInfo(status=status, end_time_secs=time)
    return _hyperparameters(_SESSION_END, plugin.HParamsPluginData(session_end_info=told), time=time)


def _messages() -> tuple[Any, Any]:
    """The modules of tensorboard with the messages of events and of hyperparameters."""
    from tensorboard.compat.proto import event_pb2
    from tensorboard.plugins.hparams import plugin_data_pb2

    return event_pb2, plugin_data_pb2


def _hyperparameters(tag: str, content: Any, *, time: float) -> bytes:
    event, _ = _messages()
    one = event.Event(wall_time=time)
    value = one.summary.value.add(tag=tag)
    value.metadata.plugin_data.plugin_name = _PLUGIN
    value.metadata.plugin_data.content = content.SerializeToString()
    value.tensor.dtype = 1  # DT_FLOAT; TensorBoard wants a tensor in every summary, and reads none of this one
    value.tensor.tensor_shape.SetInParent()
    value.tensor.float_val.append(0.0)
    return _record(one)


def _record(event: Any) -> bytes:
    content: bytes = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    return length + _masked_crc(length) + content + _masked_crc(content)


def _masked_crc(content: bytes) -> bytes:
    """CRC-32C (RFC 3720, appendix B.4), rotated and shifted as TFRecord wants it."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in content:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


@cache
def _crc_table() -> tuple[int, ...]:
    found = []
    for crc in range(256):
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        found.append(crc)
    return tuple(found)
