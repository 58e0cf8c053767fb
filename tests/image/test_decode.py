"""One file to pixels: modes, rotations, sizes; and a reason for what cannot be read."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ssl_domains.image.decode import BrokenImage, Decoding, decode, read_header


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def halves(mode: str = "RGB", left=(200, 0, 0), right=(0, 0, 200), size=(8, 4)) -> Image.Image:
    """An image whose left and right halves differ."""
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, size[0], size[1]))
    return image


KEEP = Decoding((4, 8))


def test_rgb_is_kept_as_it_is():
    pixels, true = decode(encoded(halves()), KEEP)
    assert true == (4, 8)
    assert pixels.shape == (4, 8, 3)
    np.testing.assert_array_equal(pixels[0, 0], [200, 0, 0])
    np.testing.assert_array_equal(pixels[3, 7], [0, 0, 200])


def test_grey_and_colour_become_what_is_asked():
    grey = encoded(halves("L", 10, 250))
    np.testing.assert_array_equal(decode(grey, KEEP)[0][0, 0], [10, 10, 10])
    one = decode(encoded(halves()), Decoding((4, 8), channels=1))[0]
    assert one.shape == (4, 8, 1)
    assert one[0, 0, 0] == pytest.approx(0.299 * 200, abs=1)


def test_cmyk_becomes_rgb():
    image = Image.new("CMYK", (8, 4), (0, 255, 255, 0))  # magenta and yellow ink: red
    pixels = decode(encoded(image, "TIFF"), KEEP)[0]
    np.testing.assert_array_equal(pixels[0, 0], [255, 0, 0])
    jpeg = decode(encoded(image, "JPEG"), KEEP)[0][0, 0]
    assert jpeg[0] > 200
    assert jpeg[1:].max() < 60


def test_sixteen_bits_are_scaled_not_cut():
    values = np.full((4, 8), 0x8000, np.uint16)
    values[:, 4:] = 0xFFFF
    pixels = decode(encoded(Image.fromarray(values)), Decoding((4, 8), channels=1))[0]
    assert pixels[0, 0, 0] == 128
    assert pixels[0, 7, 0] == 255


def test_float_images_in_unit_range():
    values = np.full((4, 8), 0.5, np.float32)
    pixels = decode(encoded(Image.fromarray(values), "TIFF"), KEEP)[0]
    assert (abs(pixels.astype(int) - 128) <= 1).all()


def test_palette_with_and_without_transparency():
    plain = halves().convert("P", palette=Image.Palette.ADAPTIVE)
    pixels = decode(encoded(plain), KEEP)[0]
    assert abs(pixels[0, 0].astype(int) - [200, 0, 0]).max() <= 8
    clear = decode(encoded(plain, transparency=plain.getpixel((0, 0))), KEEP)[0]
    np.testing.assert_array_equal(clear[0, 0], [255, 255, 255])
    assert abs(clear[0, 7].astype(int) - [0, 0, 200]).max() <= 8


def test_alpha_lies_on_the_background():
    image = Image.new("RGBA", (8, 4), (100, 0, 0, 0))
    image.paste((100, 0, 0, 128), (4, 0, 8, 4))
    white = decode(encoded(image), KEEP)[0]
    np.testing.assert_array_equal(white[0, 0], [255, 255, 255])
    assert white[0, 7, 1] == pytest.approx(127, abs=1)
    black = decode(encoded(image), Decoding((4, 8), background=0))[0]
    np.testing.assert_array_equal(black[0, 0], [0, 0, 0])


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_rotation_is_applied(turn):
    """PIL's own transpose is the reference; the size is the one that is shown."""
    from PIL import ImageOps

    source = halves(size=(8, 4))
    exif = Image.Exif()
    exif[0x0112] = turn
    raw = encoded(source, "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(raw))))
    pixels, true = decode(raw, Decoding(expected.shape[:2]))
    np.testing.assert_array_equal(pixels, expected)
    assert true == expected.shape[:2]
    assert (read_header(raw).height, read_header(raw).width) == true


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 4), c) for c in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    raw = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert abs(decode(raw, KEEP)[0][0, 0].astype(int) - [250, 0, 0]).max() <= 8


def test_one_pixel():
    pixels, true = decode(encoded(Image.new("RGB", (1, 1), (9, 8, 7))), Decoding((6, 6)))
    assert true == (1, 1)
    assert (pixels == [9, 8, 7]).all()


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (3, 200)])
@pytest.mark.parametrize("fit", ["crop", "squeeze", "pad"])
def test_extreme_shapes(size, fit):
    pixels, true = decode(encoded(Image.new("RGB", size, (50, 60, 70))), Decoding((16, 12), fit=fit))
    assert pixels.shape == (16, 12, 3)
    assert true == size[::-1]


def test_crop_keeps_the_middle_and_pad_keeps_all():
    image = Image.new("RGB", (30, 10), (255, 0, 0))
    image.paste((0, 255, 0), (10, 0, 20, 10))
    crop = decode(encoded(image), Decoding((10, 10)))[0]
    assert (crop == [0, 255, 0]).all()
    pad = decode(encoded(image), Decoding((30, 30), fit="pad", background=7))[0]
    np.testing.assert_array_equal(pad[0, 0], [7, 7, 7])
    np.testing.assert_array_equal(pad[15, 1], [255, 0, 0])


def test_large_jpeg_is_decoded_small_and_alike():
    down, across = np.mgrid[0:1:640j, 0:1:960j]
    image = Image.fromarray((np.stack([down, across, down * across], 2) * 255).astype(np.uint8))
    small = decode(encoded(image, "JPEG", quality=95), Decoding((32, 48)))[0].astype(int)
    reference = np.asarray(image.resize((48, 32), Image.Resampling.BICUBIC)).astype(int)
    assert abs(small - reference).max() <= 6


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "is empty|is no image"),
        (b"id,label\n1,cat\n", "is no image that can be read"),
        (encoded(halves(size=(400, 400)), "JPEG")[:700], "is damaged"),
        (encoded(Image.effect_noise((300, 300), 90))[:20_000], "is damaged"),
        (encoded(halves())[:-30], "is damaged"),
    ],
)
def test_broken_bytes(raw, reason):
    with pytest.raises(BrokenImage, match=reason):
        decode(raw, KEEP)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(BrokenImage, match="does not exist"):
        decode(tmp_path / "no.png", KEEP)
    with pytest.raises(BrokenImage, match=r"is a folder|may not be read|is no image"):
        decode(tmp_path, KEEP)
    (tmp_path / "empty.png").touch()
    with pytest.raises(BrokenImage, match="is empty"):
        decode(tmp_path / "empty.png", KEEP)


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (60_000, 60_000)])
def test_bombs_are_refused_before_they_are_decoded(width, height):
    with pytest.raises(BrokenImage, match="max_pixels"):
        decode(bomb(width, height), KEEP)


def test_the_limit_can_be_set():
    raw = encoded(halves(size=(40, 40)))
    with pytest.raises(BrokenImage, match=r"is 40 x 40 pixels, more than data.max_pixels \(1,000\)"):
        decode(raw, Decoding((4, 4), max_pixels=1000))
