"""A picture as PNG: its SVG, drawn by resvg."""

import importlib.util
from functools import cache

from dlcli.core.errors import ConfigError, ResourceError

_ZOOM = 2  # pixels of a dot, so that it is sharp on today's screens

_LETTER = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><text y="15">{}</text></svg>'


def is_installed() -> bool:
    return importlib.util.find_spec("resvg_py") is not None


def can_draw() -> bool:
    """Whether resvg is installed, and there is a font, without which the numbers would be missing."""
    return is_installed() and _has_font()


def check_installed() -> None:
    """ConfigError (exit 2) without resvg."""
    if not is_installed():
        raise ConfigError("a .png is drawn by resvg: pip install 'dlcli[plots]', or write a .svg")


def to_png(svg: str) -> bytes:
    """On white, two pixels for each unit. ResourceError (exit 6) if there is no font on this machine."""
    check_installed()
    import resvg_py

    if not _has_font():
        raise ResourceError("there is no font on this machine to draw a .png with: install one, or write a .svg")
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", zoom=_ZOOM))


@cache
def _has_font() -> bool:
    import resvg_py

    return bool(
        resvg_py.svg_to_bytes(svg_string=_LETTER.format("8")) != resvg_py.svg_to_bytes(svg_string=_LETTER.format(""))
    )
