"""The client of runtime.py: starts a fresh process that opens one artifact, and sends requests to it."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dlcli.core.errors import CheckError, ResourceError

# -P: the runtimes must not import a user's script that is called onnx.py.
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from dlcli.export.runtime import main; main()"


class RuntimeProcess:
    """A context manager. folder: where the runtimes unpack temporary files.

    Its error messages call the artifact `it`: the caller puts them after the artifact's name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> "RuntimeProcess":
        self._errors = tempfile.TemporaryFile()
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
            env={**os.environ, "PYTHONWARNINGS": "ignore", "TMPDIR": str(self.folder)},
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, do: str, **arguments: Any) -> Any:
        """The result of a request. CheckError if the runtime raises or crashes, ResourceError if the process was killed
        (SIGKILL)."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise self._gone()
        answer = json.loads(line)
        if "error" in answer:
            raise CheckError(f"its runtime refuses it: {_short(answer['error'])}")
        return answer["found"]

    def _gone(self) -> ResourceError | CheckError:
        code = self._process.wait()
        if code == -9:
            return ResourceError("the process that opened the artifact was killed: is there enough memory?")
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"signal {-code}" if code < 0 else f"exit {code}"
        return CheckError(f"it crashes its runtime ({how}{': ' + _short(lines[-1]) if lines else ''})")


def _short(text: str) -> str:
    return text if len(text) <= 300 else text[:300] + "..."
