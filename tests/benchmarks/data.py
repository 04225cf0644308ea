"""What is trained on: Fashion-MNIST from DLCLI_DATA_DIR, else random images of its shape; a text; recall.

Images lie in torchvision's layout, so that torchvision, dlcli and a person's own loader read the same files.
"""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dlcli.core.files import sha256_of
from dlcli.data.source import Source

CACHE = Path(__file__).parent.parent.parent / "build" / "benchmark-data"
ALL, TEST = 60_000, 10_000
MEAN, STD = 0.286, 0.353  # of Fashion-MNIST


def name() -> str:
    return "Fashion-MNIST" if _real() else "random images of 28x28 pixels"


def there(name: str) -> bool:
    """Whether the data folder of the environment has these images, such as MNIST."""
    return (Path(os.environ.get("DLCLI_DATA_DIR") or "nowhere") / name / "raw").is_dir()


def folder(samples: int = ALL, test: int = TEST) -> Path:
    """A data folder whose FashionMNIST has the first so many training and test images."""
    real = _real()
    if real and (samples, test) == (ALL, TEST):
        return real
    found = CACHE / f"{'real' if real else 'random'}-{samples}-{test}"
    for prefix, count in (("train", samples), ("t10k", test)):
        pixels, labels = _files(found, prefix)
        if not pixels.exists():
            pixels.parent.mkdir(parents=True, exist_ok=True)
            content = [f.read_bytes() for f in _files(real, prefix)] if real else _random(count)
            labels.write_bytes(_header(1, (count,)) + content[1][8 : 8 + count])
            unfinished = pixels.with_suffix(f".{os.getpid()}")
            unfinished.write_bytes(_header(3, (count, 28, 28)) + content[0][16 : 16 + count * 784])
            unfinished.rename(pixels)
    raw = pixels.parent  # its files are of the published size, or not: either way they say that they are our own
    sums = (f"{sha256_of(file)}  {file.name}\n" for file in sorted(raw.glob("*-ubyte")))
    (raw / "SHA256SUMS").write_text("".join(sums))
    return found


def images(root: Path, part: str) -> tuple[Tensor, Tensor]:
    """uint8 (N, 28, 28) and int64 (N,) of `train` or `t10k`."""
    pixels, labels = _files(root, part)
    x = torch.from_numpy(np.fromfile(pixels, dtype=np.uint8, offset=16)).view(-1, 28, 28)
    return x, torch.from_numpy(np.fromfile(labels, dtype=np.uint8, offset=8)).long()


def inputs(pixels: Tensor) -> Tensor:
    """As an expert does it: once, in place, (N, 1, 28, 28)."""
    return pixels.float().div_(255).sub_(MEAN).div_(STD)[:, None]


def _pydocs() -> Source:
    from dlcli.data.text import pydocs

    corpus = pydocs(Path())
    return corpus.fit(torch.arange(corpus.rows), None)


def text(samples: int) -> tuple[Tensor, Tensor, int]:
    """(N, 128) tokens of Python's help pages, the tokens that follow them, and how many there are."""
    source = _pydocs()
    rows = source.x[:samples].long()
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), source.spec.vocabulary


def text_rows() -> int:
    return len(_pydocs().x)


def recall(samples: int) -> tuple[Tensor, Tensor, int, int]:
    """(N, 9) tokens, the class of each row, the number of tokens and that of classes."""
    from dlcli.data.synthetic import recall

    source = recall(Path(), samples=samples)
    assert source.y is not None
    return source.x, source.y, source.spec.vocabulary, source.spec.outputs


def _real() -> Path | None:
    root = Path(os.environ.get("DLCLI_DATA_DIR") or "nowhere")
    return root if _files(root, "train")[0].exists() else None


def _files(root: Path, prefix: str) -> tuple[Path, Path]:
    raw = root / "FashionMNIST" / "raw"
    return raw / f"{prefix}-images-idx3-ubyte", raw / f"{prefix}-labels-idx1-ubyte"


def _header(axes: int, sizes: tuple[int, ...]) -> bytes:
    return bytes([0, 0, 8, axes]) + b"".join(size.to_bytes(4, "big") for size in sizes)


def _random(count: int) -> list[bytes]:
    generator = np.random.default_rng(0)
    pixels = generator.integers(256, size=16 + count * 784, dtype=np.uint8)
    return [pixels.tobytes(), generator.integers(10, size=8 + count, dtype=np.uint8).tobytes()]
