"""Format aoti: a traced program that AOTInductor compiles ahead of time for the processor of this machine."""

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dlcli.core.errors import ResourceError
from dlcli.export.program import Traced, quiet


def need_compiler() -> None:
    """ResourceError (exit 6) unless there is a C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError):
        raise ResourceError(
            "format aoti needs a C++ compiler, and none was found: install g++ or name yours in CXX"
        ) from None


def write(traced: Traced, metadata: Mapping[str, str]) -> bytes:
    from torch._inductor.package.package import package_aoti

    need_compiler()
    args, kwargs = traced.program.example_inputs
    options = {
        "aot_inductor.package": True,
        "aot_inductor.metadata": dict(metadata),
        "aot_inductor.enable_line_tables": False,  # or the library would name every source file
    }
    with quiet(), torch.no_grad():
        made: Any = torch._inductor.aot_compile(
            traced.program.module(check_guards=False), args, kwargs, options=options
        )
        with tempfile.TemporaryDirectory() as folder:
            files = [_without_paths(Path(file), Path(folder)) for file in made if not file.endswith(".cpp")]
            archive = io.BytesIO()
            package_aoti(archive, [str(file) for file in files])
            return archive.getvalue()


def _without_paths(file: Path, folder: Path) -> Path:
    """A copy of the file in which the paths of torch and of the compiler's cache are blanked out.

    They occur in its error messages. They are overwritten, not removed, since offsets in a library must not change.
    """
    content = file.read_bytes()
    for place in (Path(torch.__file__).parent.parent, file.parent):
        path = str(place).encode()
        content = content.replace(path, b"_" * len(path))
    copy = folder / file.name
    copy.write_bytes(content)
    return copy
