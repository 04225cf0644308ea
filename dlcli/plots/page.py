"""A picture as one HTML page that loads nothing and runs nothing."""

import base64
import hashlib

from dlcli.plots.picture import Picture
from dlcli.plots.svg import STYLE, text, to_svg

_BODY = (
    ":root{color-scheme:light dark}body{margin:1em auto;max-width:720px}svg{max-width:100%;height:auto}"
    "@media(prefers-color-scheme:dark){body{background:#16181c}}"
)


def to_html(picture: Picture) -> str:
    """The SVG in a page whose content security policy allows its two style sheets, by hash, images that are part of the
    page, and nothing else."""
    hashes = " ".join(f"'sha256-{_hash(style)}'" for style in (_BODY, STYLE))
    drawing = to_svg(picture, values=True)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src {hashes}; img-src data:">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{text(picture.title)}</title><style>{_BODY}</style></head>\n<body>\n{drawing}</body></html>\n"
    )


def _hash(style: str) -> str:
    return base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
