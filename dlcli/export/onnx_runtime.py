"""ONNX Runtime without its telemetry, which makes a folder in the user's home and sends its maker what is run."""

import os
from typing import Any


def load() -> Any:
    """The module. To be called before anything else imports it: its telemetry starts with the import."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime  # also where it is installed as onnxruntime-gpu

    return onnxruntime
