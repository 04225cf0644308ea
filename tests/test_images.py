"""Image files of every kind: what the model gets is what a viewer shows; what cannot be used is told."""

import io
import random
import re
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dlcli.core.errors import ConfigError, DataError
from dlcli.data.readers.images import read_image

FORMATS = "PNG, JPEG, BMP, GIF, WEBP, TIFF"


def noise(*shape: int, top: int = 256, kind: Any = np.uint8) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, top, shape).astype(kind)


def read(path: Path, *shape: int, **settings: Any) -> np.ndarray[Any, Any]:
    return read_image(path, shape, **settings).numpy()


def said(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_image(path, (1, 6, 8))
    return str(caught.value)


# What a viewer shows


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif", "webp"])
def test_grey_pixels_arrive_as_they_are(suffix: str, tmp_path: Path) -> None:
    pixels, file = noise(6, 8), tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(file, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(read(file, 1, 6, 8)[0], pixels)
    np.testing.assert_array_equal(read(file, 3, 6, 8), np.stack([pixels] * 3))


def test_colours_arrive_channel_by_channel(tmp_path: Path) -> None:
    pixels = noise(6, 8, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png", 3, 6, 8), pixels.transpose(2, 0, 1))


def test_white_is_what_the_data_calls_white(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 255).save(tmp_path / "a.png")
    assert np.unique(read(tmp_path / "a.png", 1, 8, 8, white=16.0)).tolist() == [16.0]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_and_not_clipped(suffix: str, tmp_path: Path) -> None:
    pixels, file = noise(6, 8, top=65536, kind=np.uint16), tmp_path / f"a.{suffix}"
    pixels[0, :2] = 0, 65535
    Image.fromarray(pixels).save(file)
    with Image.open(file) as image:
        assert image.mode.startswith("I;16")
    found = read(file, 1, 6, 8)[0]
    np.testing.assert_array_equal(found, (pixels / 65535 * 255).round())
    assert found[0, :2].tolist() == [0, 255]
    np.testing.assert_array_equal(read(file, 3, 6, 8)[1], found)


@pytest.mark.parametrize(
    ("mode", "left", "right"),
    [("RGBA", (0, 0, 0, 0), (10, 20, 30, 255)), ("LA", (0, 0), (20, 255)), ("RGBA", (0, 0, 0, 127), (9, 9, 9, 255))],
)
def test_transparent_parts_are_white(mode: str, left: Any, right: Any, tmp_path: Path) -> None:
    image = Image.new(mode, (2, 1), right)
    image.putpixel((0, 0), left)
    image.save(tmp_path / "a.png")
    colour = [*left[:3]] if mode == "RGBA" else [left[0]] * 3
    opacity = left[-1] / 255
    found = read(tmp_path / "a.png", 3, 1, 2)
    assert found[:, 0, 0].tolist() == [round(c * opacity + 255 * (1 - opacity)) for c in colour]
    assert found[:, 0, 1].tolist() == ([*right[:3]] if mode == "RGBA" else [right[0]] * 3)


def test_a_palette_is_looked_up_and_its_transparent_colour_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([0, 0, 0, 200, 100, 0, 0, 0, 9])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "a.png")
    assert read(tmp_path / "a.png", 3, 1, 3)[:, 0].T.tolist() == [[0, 0, 0], [200, 100, 0], [0, 0, 9]]
    image.save(tmp_path / "b.gif", transparency=0)
    assert read(tmp_path / "b.gif", 3, 1, 3)[:, 0].T.tolist() == [[255, 255, 255], [200, 100, 0], [0, 0, 9]]


def test_cmyk_and_black_and_white_are_converted(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    red = read(tmp_path / "red.jpg", 3, 1, 1)[:, 0, 0]
    assert red[0] > 250 and red[1] < 5 and red[2] < 5
    Image.new("1", (8, 8), 1).save(tmp_path / "white.png")
    assert np.unique(read(tmp_path / "white.png", 1, 8, 8)).tolist() == [255]
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "red.png")
    assert np.unique(read(tmp_path / "red.png", 1, 2, 2)).tolist() == [76]  # ITU-R 601: 0.299 of red


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_the_camera_noted_it(orientation: int, tmp_path: Path) -> None:
    upright = noise(6, 8)
    stored = {  # how the camera stored what is upright, by the Exif standard
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path / "a.png", 1, 6, 8)[0], upright)


def test_it_is_resized_to_what_the_model_takes(tmp_path: Path) -> None:
    Image.new("L", (40, 20), 50).save(tmp_path / "a.png")
    found = read(tmp_path / "a.png", 3, 6, 8)
    assert found.shape == (3, 6, 8) and np.unique(found).tolist() == [50]


def test_a_cameras_jpeg_with_a_smaller_copy_of_itself_is_one_image(tmp_path: Path) -> None:
    large, small = Image.new("RGB", (64, 64), (200, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 200))
    large.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[small])
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.n_frames == 2
    assert read(tmp_path / "a.jpg", 3, 1, 1)[0, 0, 0] > 190


# What cannot be used


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_more_than_one_frame_is_refused(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (i * 80, 0, 0)) for i in range(3)]
    file = tmp_path / f"a.{suffix}"
    frames[0].save(file, save_all=True, append_images=frames[1:])
    assert said(file) == f"{file} has 3 frames: save one of them as an image of its own"


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_whose_white_nobody_knows_are_refused(kind: Any, tmp_path: Path) -> None:
    Image.fromarray(np.ones((6, 8), dtype=kind)).save(tmp_path / "a.tif")
    assert said(tmp_path / "a.tif") == (
        f"{tmp_path / 'a.tif'} has pixels of 32 bits, whose white nobody knows: save it with 8 or 16"
    )


def test_what_is_no_image_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("L", (8, 8)).save(tmp_path / "a.ppm")
    for content in (b"", b"no image at all", bytes(1000), (tmp_path / "a.ppm").read_bytes()):
        file.write_bytes(content)
        assert said(file) == f"{file} is no image in one of the formats {FORMATS}"


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "tif"])
def test_a_truncated_image_is_told(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(64, 64)).save(file)
    file.write_bytes(file.read_bytes()[:2000])
    assert re.fullmatch(
        re.escape(str(file)) + r" is damaged: image file is truncated( \(\d+ bytes not processed\))?", said(file)
    )


@pytest.mark.parametrize(("width", "height"), [(8001, 8000), (10_000, 10_000), (14_000, 14_000)])
def test_a_bomb_is_refused_before_it_is_decoded(width: int, height: int, tmp_path: Path) -> None:
    """The last two are beyond Pillow's own limits, at which it warns and raises."""
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    file = tmp_path / "a.png"
    file.write_bytes(buffer.getvalue()[:200])  # the header suffices
    assert said(file) == f"{file} has more than 64,000,000 pixels: make it smaller"


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch) -> None:
    def refuses(path: Path, **settings: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setattr(Image, "open", refuses)
    assert said(tmp_path / "a.png") == f"{tmp_path / 'a.png'} cannot be read: Permission denied"


def test_two_channels_are_a_matter_of_the_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_image(tmp_path / "a.png", (2, 6, 8))
    assert str(caught.value) == "the model takes images of 2 channels, which no image file has"


def test_no_damage_is_anything_but_a_sentence(tmp_path: Path) -> None:
    """Flipped bytes make Pillow raise IndexError, TypeError and more, or warn."""
    generator, file = random.Random(0), tmp_path / "a"
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("PNG", {}), ("JPEG", {}), ("BMP", {}), ("GIF", {}), ("WEBP", {}), ("TIFF", {}),
    ]  # fmt: skip
    told = 0
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for kind, settings in kinds:
            buffer = io.BytesIO()
            Image.fromarray(noise(24, 24, 3)).save(buffer, kind, **settings)
            for _ in range(150):
                content = bytearray(buffer.getvalue())
                for _ in range(generator.choice([1, 2, 8])):
                    content[generator.randrange(min(len(content), 200))] = generator.randrange(256)
                file.write_bytes(content)
                try:
                    read_image(file, (3, 8, 8))
                except DataError as error:
                    assert str(error).startswith(f"{file} ") and "\n" not in str(error)
                    told += 1
    assert told > 100 and heard == []


def test_what_pillow_logs_is_not_printed(tmp_path: Path) -> None:
    """Of a TIFF with too many samples a pixel it logs an error. In a process of its own: pytest listens to all logs."""
    file = tmp_path / "a.tif"
    Image.fromarray(noise(8, 8, 3)).save(file)
    content = file.read_bytes()
    entry = struct.pack("<HHI", 277, 3, 1) + struct.pack("<HH", 3, 0)  # tag SamplesPerPixel, a short: 3
    assert content.count(entry) == 1
    file.write_bytes(content.replace(entry, entry[:8] + struct.pack("<HH", 3000, 0)))
    program = "import sys, logging; from pathlib import Path; from dlcli.data.readers.images import read_image\n"
    program += "logging.getLogger('another').error('heard')\nread_image(Path(sys.argv[1]), (1, 8, 8))"
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, timeout=120)
    lines = done.stderr.splitlines()
    assert (lines[0], lines[1]) == ("heard", "Traceback (most recent call last):")
    assert lines[-1] == f"dlcli.core.errors.DataError: {file} is no image in one of the formats {FORMATS}"
