"""ONNX Runtime without its telemetry, which creates a folder in the user's home and reports usage to its vendor."""

import os
from typing import Any


def load() -> Any:
    """The onnxruntime module. Must be called before anything else imports it: telemetry starts with the import."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime  # the module name of the package onnxruntime-gpu too

    return onnxruntime
