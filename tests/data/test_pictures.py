"""Image files of every kind that people have, as the uint8 pixels of a network."""

from __future__ import annotations

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from csa.data.pictures import UnreadableImageError, decode, decode_crop

RAMP = np.linspace(0, 65535, 24 * 32).astype(np.uint16).reshape(24, 32)
"""All levels of 16 bits, from the first pixel to the last."""
COLOURS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def whole(path):
    """The image by either way of reading, which must agree."""
    image = np.asarray(decode(path))
    part = decode_crop(path, lambda height, width: (1, 1, 0, 0), pixels=1000)
    assert np.array_equal(part, image)
    assert np.array_equal(np.asarray(decode(path, "L")).shape, image.shape[:2])
    return image


def write_png(path, colour_type, levels):
    """A PNG of 16 bits a channel, which Pillow only writes in grey."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = levels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


def write_tiff_of_12_bits(path, levels):
    height, width = levels.shape
    pairs = levels.reshape(-1, 2).astype(np.uint32)
    packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    tags = [(256, 4, width), (257, 4, height), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 4, height), (279, 4, len(packed))]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    start = struct.pack("<2sHI", b"II", 42, 8 + len(packed))
    path.write_bytes(start + packed + struct.pack("<H", len(tags)) + directory + bytes(4))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("grey.png", lambda path: Image.fromarray(RAMP).save(path)),
        ("grey.tif", lambda path: Image.fromarray(RAMP).save(path)),
        ("motorola.tif", lambda path: Image.fromarray(RAMP.astype(">u2")).save(path)),
        ("white_is_zero.tif", lambda path: Image.fromarray(65535 - RAMP).save(path, tiffinfo={262: 0})),
        ("twelve_bits.tif", lambda path: write_tiff_of_12_bits(path, RAMP >> 4)),
        ("grey.jp2", lambda path: Image.fromarray(RAMP).save(path)),
        ("grey.pgm", lambda path: path.write_bytes(b"P5 32 24 65535\n" + RAMP.astype(">u2").tobytes())),
        ("colour.png", lambda path: write_png(path, 2, np.stack([RAMP] * 3, -1))),
        ("transparent.png", lambda path: write_png(path, 6, np.stack([RAMP] * 4, -1))),
        ("floats.tif", lambda path: Image.fromarray((RAMP / 65535).astype(np.float32)).save(path)),
        ("floats.pfm", lambda path: Image.fromarray((RAMP / 65535).astype(np.float32)).save(path)),
    ],
)
def test_more_than_eight_bits_keep_their_scale(tmp_path, name, write):
    write(tmp_path / name)
    image = whole(tmp_path / name)
    assert image.shape == (24, 32, 3)
    assert abs(image - RAMP[..., None] / 257).max() <= 1


@pytest.mark.parametrize(
    ("levels", "told"),
    [
        (RAMP.astype(np.int32), "integers of 32 bits or with a sign, whose scale is not known"),
        (RAMP / 257, "floats from 0 to 255; allowed: from 0 to 1"),
        (RAMP / 65535 - 0.5, "floats from -0.5 to 0.5"),
        (np.where(RAMP > 7, np.nan, 0), "floats from nan to nan"),
    ],
)
def test_values_of_an_unknown_scale_are_refused(tmp_path, levels, told):
    kind = np.int32 if levels.dtype == np.int32 else np.float32
    Image.fromarray(levels.astype(kind)).save(tmp_path / "odd.tif")
    for read in (decode, lambda path: decode_crop(path, lambda height, width: (0.5, 0.5, 0, 0), 8)):
        with pytest.raises(UnreadableImageError, match=told):
            read(tmp_path / "odd.tif")


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("1", "png"), ("L", "gif"), ("LA", "png"), ("P", "png"), ("RGBA", "webp"), ("CMYK", "jpg"), ("YCbCr", "tif")],
)
def test_modes_of_eight_bits_are_pillows_own(tmp_path, mode, ending):
    path = tmp_path / f"image.{ending}"
    Image.fromarray(COLOURS).convert("RGBA" if "A" in mode else "RGB").convert(mode).save(path)
    with Image.open(path) as opened:
        assert np.array_equal(whole(path), np.asarray(opened.convert("RGB")))


def test_of_several_frames_the_first_counts_and_transparency_is_passed_over(tmp_path):
    black = Image.new("RGB", (32, 24))
    for name in ("moving.png", "pages.tif"):
        Image.fromarray(COLOURS).save(tmp_path / name, save_all=True, append_images=[black, black])
        assert np.array_equal(whole(tmp_path / name), COLOURS)
    palette = Image.fromarray((COLOURS[..., 0] % 3), "P")
    palette.putpalette([255, 255, 255, 200, 0, 0, 0, 0, 200])
    palette.save(tmp_path / "palette.png", transparency=b"\0\xff\x80")
    expected = np.array([[255, 255, 255], [200, 0, 0], [0, 0, 200]], np.uint8)[COLOURS[..., 0] % 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(whole(tmp_path / "palette.png"), expected)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_every_orientation_is_turned_upright(tmp_path, ending):
    mirrored, turned = COLOURS[:, ::-1], COLOURS.transpose(1, 0, 2)
    upright = [COLOURS, mirrored, COLOURS[::-1, ::-1], COLOURS[::-1], turned, turned[:, ::-1]]
    upright += [turned[::-1, ::-1], turned[::-1]]
    for orientation, expected in enumerate(upright, 1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(COLOURS).save(tmp_path / f"turned.{ending}", exif=exif)
        assert np.array_equal(whole(tmp_path / f"turned.{ending}"), expected)


@pytest.mark.parametrize(
    "block",
    [
        bytes(range(60, 100)),
        b"",
        b"II*\0\x08\0\0\0\x05\0\x12\x01\x03\0",
        b"MM\0*\xff\xff\xff\xf0",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x63\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0\x36\0\0\0\0\0\0\0",
    ],
    ids=["garbage", "empty", "cut", "offset", "type", "orientation 9", "text"],
)
def test_a_damaged_exif_block_costs_no_image(tmp_path, block):
    Image.fromarray(COLOURS).save(tmp_path / "plain.jpg")
    plain, told = (tmp_path / "plain.jpg").read_bytes(), b"Exif\0\0" + block
    segment = b"\xff\xe1" + struct.pack(">H", len(told) + 2) + told
    (tmp_path / "odd.jpg").write_bytes(plain[:2] + segment + plain[2:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(whole(tmp_path / "odd.jpg"), whole(tmp_path / "plain.jpg"))
