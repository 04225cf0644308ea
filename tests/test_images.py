"""Image files of every kind: the model gets what a viewer shows, and unusable files are reported."""

import io
import random
import re
import struct
import subprocess
import sys
import warnings
import zlib
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
    stored = {  # how the camera stored an upright image, by the Exif standard
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


# Files written by hand according to the standards of PNG and TIFF


def png(depth: int, colour: int, width: int, line: bytes, *, clear: bytes = b"", palette: bytes = b"") -> bytes:
    """One line of pixels. colour: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA; clear: content of tRNS."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))
    between = (chunk(b"PLTE", palette) if palette else b"") + (chunk(b"tRNS", clear) if clear else b"")
    return b"\x89PNG\r\n\x1a\n" + header + between + chunk(b"IDAT", zlib.compress(b"\0" + line)) + chunk(b"IEND", b"")


def tiff(
    bits: int, photometric: int, pixels: bytes, *, width: int = 2, height: int = 1, samples: int = 1, order: str = "<",
    sample_format: int = 1, extra: int | None = None, palette: tuple[int, ...] = (),
) -> bytes:  # fmt: skip
    """Uncompressed, in one strip. photometric: 0 white is 0, 1 black is 0, 2 RGB, 3 palette, 5 CMYK, 8 Lab."""
    entries = {
        256: [width], 257: [height], 258: [bits] * samples, 259: [1], 262: [photometric], 273: [8], 277: [samples],
        278: [height], 279: [len(pixels)], 320: list(palette), 338: [] if extra is None else [extra],
        339: [sample_format] * samples,
    }  # fmt: skip
    entries = {tag: values for tag, values in entries.items() if values}
    strip = pixels + bytes(len(pixels) % 2)
    table, beyond = struct.pack(order + "H", len(entries)), b""
    end = 8 + len(strip) + 2 + 12 * len(entries) + 4
    for tag, values in entries.items():
        content = struct.pack(f"{order}{len(values)}H", *values)
        if len(content) > 4:
            content, beyond = struct.pack(order + "I", end + len(beyond)), beyond + content
        table += struct.pack(order + "HHI", tag, 3, len(values)) + content.ljust(4, b"\0")
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(strip))
    return start + strip + table + bytes(4) + beyond


PALETTE = bytes([1, 2, 3, 100, 101, 102])
WHITE = [255, 255, 255]

PNGS: dict[str, tuple[bytes, list[list[int]]]] = {
    "grey 1": (png(1, 0, 2, b"\x40"), [[0, 0, 0], WHITE]),
    "grey 1, black is clear": (png(1, 0, 2, b"\x40", clear=b"\0\0"), [WHITE, WHITE]),
    "grey 1, white is clear": (png(1, 0, 2, b"\x40", clear=b"\0\1"), [[0, 0, 0], WHITE]),
    "grey 2": (png(2, 0, 4, b"\x1b"), [[0] * 3, [85] * 3, [170] * 3, WHITE]),
    "grey 2, 1 is clear": (png(2, 0, 4, b"\x1b", clear=b"\0\1"), [[0] * 3, WHITE, [170] * 3, WHITE]),
    "grey 4": (png(4, 0, 2, b"\x1e"), [[17] * 3, [238] * 3]),
    "grey 4, 1 is clear": (png(4, 0, 2, b"\x1e", clear=b"\0\1"), [WHITE, [238] * 3]),
    "grey 8": (png(8, 0, 2, b"\x0a\xc8"), [[10] * 3, [200] * 3]),
    "grey 8, 10 is clear": (png(8, 0, 2, b"\x0a\xc8", clear=b"\0\x0a"), [WHITE, [200] * 3]),
    "grey 16": (png(16, 0, 2, struct.pack(">HH", 1000, 51400)), [[4] * 3, [200] * 3]),
    "grey 16, 1000 is clear": (
        png(16, 0, 3, struct.pack(">HHH", 1000, 1001, 51400), clear=struct.pack(">H", 1000)),
        [WHITE, [4] * 3, [200] * 3],
    ),
    "RGB 8, one colour is clear": (png(8, 2, 2, PALETTE, clear=b"\0\1\0\2\0\3"), [WHITE, [100, 101, 102]]),
    "RGB 16": (png(16, 2, 1, struct.pack(">3H", 257, 65535, 0)), [[1, 255, 0]]),
    "palette": (png(8, 3, 2, b"\0\1", palette=PALETTE), [[1, 2, 3], [100, 101, 102]]),
    "palette, with opacities": (png(8, 3, 2, b"\0\1", palette=PALETTE, clear=b"\0"), [WHITE, [100, 101, 102]]),
    "grey and alpha 8": (png(8, 4, 2, b"\x0a\0\xc8\xff"), [WHITE, [200] * 3]),
    "grey and alpha 16": (png(16, 4, 2, struct.pack(">4H", 9, 0, 51400, 65535)), [WHITE, [200] * 3]),
    "RGBA 8": (png(8, 6, 2, b"\1\2\3\0\1\2\3\xff"), [WHITE, [1, 2, 3]]),
    "RGBA 16": (png(16, 6, 2, struct.pack(">8H", 0, 0, 0, 0, 257, 514, 771, 65535)), [WHITE, [1, 2, 3]]),
}

COLOURS = (65535, 0, 65535, 0, 65535, 257)  # one-bit palette of a TIFF: all reds, all greens, all blues

TIFFS: dict[str, tuple[bytes, list[list[int]]]] = {
    "white is 0, 1 bit": (tiff(1, 0, b"\x40"), [WHITE, [0] * 3]),
    "white is 0, 2 bits": (tiff(2, 0, b"\x10", width=2), [WHITE, [170] * 3]),
    "white is 0, 4 bits": (tiff(4, 0, b"\x01"), [WHITE, [238] * 3]),
    "white is 0, 8 bits": (tiff(8, 0, b"\0\x37"), [WHITE, [200] * 3]),
    "white is 0, 16 bits": (tiff(16, 0, struct.pack("<HH", 0, 14135)), [WHITE, [200] * 3]),
    "black is 0, 1 bit": (tiff(1, 1, b"\x40"), [[0] * 3, WHITE]),
    "black is 0, 12 bits": (tiff(12, 1, b"\x00\x0f\xff"), [[0] * 3, WHITE]),
    "black is 0, 16 bits": (tiff(16, 1, struct.pack("<HH", 0, 51400)), [[0] * 3, [200] * 3]),
    "black is 0, 16 bits, big-endian": (tiff(16, 1, struct.pack(">HH", 0, 51400), order=">"), [[0] * 3, [200] * 3]),
    "grey and opacity": (tiff(8, 1, b"\x0a\0\xc8\xff", samples=2, extra=2), [WHITE, [200] * 3]),
    "grey times opacity": (tiff(8, 1, b"\0\0\xc8\xff", samples=2, extra=1), [WHITE, [200] * 3]),
    "grey and what is no opacity": (tiff(8, 1, b"\x0a\0\xc8\xff", samples=2, extra=0), [[10] * 3, [200] * 3]),
    "RGB and opacity": (tiff(8, 2, b"\1\2\3\0\1\2\3\xff", samples=4, extra=2), [WHITE, [1, 2, 3]]),
    "RGB times opacity": (tiff(8, 2, b"\0\0\0\0\1\2\3\xff", samples=4, extra=1), [WHITE, [1, 2, 3]]),
    "RGB and opacity, 16 bits": (
        tiff(16, 2, struct.pack("<8H", 9, 9, 9, 0, 257, 514, 771, 65535), samples=4, extra=2), [WHITE, [1, 2, 3]],
    ),
    "palette": (tiff(1, 3, b"\x40", palette=COLOURS), [[255, 255, 255], [0, 0, 1]]),
    "CMYK": (tiff(8, 5, bytes([0, 255, 255, 0, 0, 0, 0, 0]), samples=4), [[255, 0, 0], WHITE]),
    "YCbCr": (tiff(8, 6, bytes([255, 128, 128, 0, 128, 128]), samples=3), [WHITE, [0] * 3]),
    "Lab": (tiff(8, 8, bytes([255, 0, 0, 128, 0, 0]), samples=3), [WHITE, [119] * 3]),
}  # fmt: skip


@pytest.mark.parametrize("name", PNGS | TIFFS)
def test_every_kind_of_pixel_arrives_as_a_viewer_shows_it(name: str, tmp_path: Path) -> None:
    """L* = 50.2 in Lab is 119 in sRGB. Grey is the weighted sum of ITU-R 601."""
    content, colours = (PNGS | TIFFS)[name]
    file = tmp_path / ("a.png" if content.startswith(b"\x89PNG") else "a.tif")
    file.write_bytes(content)
    near = 1 if name == "Lab" else 0  # Pillow converts Lab with colour profiles
    np.testing.assert_allclose(read(file, 3, 1, len(colours))[:, 0].T, colours, rtol=0, atol=near)
    grey = [round(0.299 * red + 0.587 * green + 0.114 * blue) for red, green, blue in colours]
    np.testing.assert_allclose(read(file, 1, 1, len(colours))[0, 0], grey, rtol=0, atol=near)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_grey_tiff_in_which_0_is_white(kind: Any, compression: str, tmp_path: Path) -> None:
    """Pillow inverts such files only when it saves 8 bits; for 16 bits the test inverts the values itself."""
    shown = noise(6, 8)
    stored = shown if kind == np.uint8 else 65535 - shown.astype(np.uint16) * 257
    Image.fromarray(stored).save(tmp_path / "a.tif", compression=compression, tiffinfo={262: 0})
    with Image.open(tmp_path / "a.tif") as image:
        assert image.tag_v2[262] == 0
    np.testing.assert_array_equal(read(tmp_path / "a.tif", 1, 6, 8)[0], shown)


def test_a_clear_level_of_a_turned_photo_is_white_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.array([[1000, 51400]], dtype=np.uint16)).save(
        tmp_path / "a.png", exif=exif, transparency=1000
    )  # fmt: skip
    assert read(tmp_path / "a.png", 1, 1, 2).flatten().tolist() == [200, 255]


# Unusable files


def test_a_clear_colour_of_48_bits_is_refused(tmp_path: Path) -> None:
    """Pillow keeps 8 of the 16 bits, so that different colours become equal."""
    file = tmp_path / "a.png"
    file.write_bytes(png(16, 2, 1, struct.pack(">3H", 257, 65535, 0), clear=struct.pack(">3H", 257, 65535, 0)))
    assert said(file) == f"{file} marks a colour of 48 bits as transparent: save it with an alpha channel"


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_with_a_sign_is_refused(bits: int, tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    file.write_bytes(tiff(bits, 1, bytes(bits // 4), sample_format=2))
    assert said(file) == (
        f"{file} has signed or 32-bit pixels, for which white is not defined: save it with 8 or 16 bits"
    )


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
        f"{tmp_path / 'a.tif'} has signed or 32-bit pixels, for which white is not defined: save it with 8 or 16 bits"
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
    """The last two exceed the limits at which Pillow itself warns and raises."""
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    file = tmp_path / "a.png"
    file.write_bytes(buffer.getvalue()[:200])  # the header is sufficient
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
    assert str(caught.value) == "the model expects images with 2 channels, which no image file has"


def test_no_damage_is_anything_but_a_sentence(tmp_path: Path) -> None:
    """With flipped bytes Pillow raises IndexError, TypeError and others, or warns."""
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
    """It logs an error for a TIFF with too many samples per pixel. In a new process, since pytest captures all logs."""
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
