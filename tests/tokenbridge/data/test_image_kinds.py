"""Every kind of image file has one meaning: what ADM's loader makes of it, in 8 bits a channel."""

import warnings

import numpy as np
import pytest
from PIL import Image

from tokenbridge.config import Data, UserError
from tokenbridge.data import images as data

SIZE = 16


def center_crop_arr(pil_image, image_size):
    """github.com/openai/guided-diffusion, guided_diffusion/image_datasets.py, as it stands there (MIT)."""
    # We are not on a new enough PIL to support the `reducing_gap`
    # argument, which uses BOX downsampling at powers of two first.
    # Thus, we do it by hand to improve downsample quality.
    while min(*pil_image.size) >= 2 * image_size:
        pil_image = pil_image.resize(
            tuple(x // 2 for x in pil_image.size), resample=Image.BOX
        )  # fmt: skip

    scale = image_size / min(*pil_image.size)
    pil_image = pil_image.resize(
        tuple(round(x * scale) for x in pil_image.size), resample=Image.BICUBIC
    )  # fmt: skip

    arr = np.array(pil_image)
    crop_y = (arr.shape[0] - image_size) // 2
    crop_x = (arr.shape[1] - image_size) // 2
    return arr[crop_y : crop_y + image_size, crop_x : crop_x + image_size]


def adm(path, channels=3):
    """ImageDataset.__getitem__ of the same file."""
    with open(path, "rb") as f:
        pil_image = Image.open(f)
        pil_image.load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pil_image = pil_image.convert("RGB" if channels == 3 else "L")
    return center_crop_arr(pil_image, SIZE)


def read(path, channels=3):
    """(H, W, channels) as the program reads it."""
    images = data.FileImages([path], np.zeros(1, np.int64), SIZE, channels)
    return images[0][0].numpy().transpose(1, 2, 0)


def pixels(*shape, most=256, dtype=np.uint8):
    return np.random.default_rng(3).integers(0, most, shape, dtype=dtype)


def colours(mode, shape=(37, 53)):
    return Image.fromarray(pixels(*shape, 3)).convert(mode)


def palette(transparency=None):
    image = Image.fromarray(pixels(37, 53, most=16)).convert("P")
    image.putpalette(pixels(768).tolist())
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


KINDS = {
    "grey": (lambda: colours("L"), "png"),
    "black and white": (lambda: colours("1"), "png"),
    "RGB JPEG": (lambda: colours("RGB"), "jpg"),
    "CMYK JPEG": (lambda: colours("CMYK"), "jpg"),
    "palette": (palette, "png"),
    "palette, one transparent": (lambda: palette(3), "png"),
    "palette, transparency as bytes": (lambda: palette(bytes(range(0, 160, 10))), "png"),
    "RGB, one transparent": (lambda: colours("RGB"), "png"),
    "RGBA": (lambda: Image.fromarray(pixels(37, 53, 4)), "png"),
    "grey and alpha": (lambda: Image.fromarray(pixels(37, 53, 2)), "png"),
    "WebP": (lambda: colours("RGB"), "webp"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_as_adm_reads_it(tmp_path, kind, channels):
    image, ending = KINDS[kind][0](), KINDS[kind][1]
    more = {"transparency": image.info["transparency"]} if "transparency" in image.info else {}
    if kind == "RGB, one transparent":
        more = {"transparency": image.getpixel((2, 2))}
    image.save(path := tmp_path / f"image.{ending}", **more)
    assert np.array_equal(read(path, channels).squeeze(), adm(path, channels))


@pytest.mark.parametrize(
    "shape", [(16, 16), (17, 31), (67, 41), (15, 64), (5, 7), (33, 32), (32, 95), (129, 64), (1, 9)]
)
def test_odd_sizes(tmp_path, shape):
    Image.fromarray(pixels(*shape, 3)).save(path := tmp_path / "image.png")
    assert np.array_equal(read(path), adm(path))


def test_alpha_is_dropped_and_not_blended(tmp_path):
    clear = np.full((SIZE, SIZE, 4), (200, 100, 50, 0), np.uint8)
    Image.fromarray(clear).save(path := tmp_path / "image.png")
    assert (read(path) == (200, 100, 50)).all()


def test_exif_rotation_is_ignored(tmp_path):
    """As by ADM: published statistics are of images that are not turned."""
    image = Image.new("RGB", (SIZE, SIZE))
    image.paste((255, 255, 255), (0, 0, SIZE, SIZE // 2))  # bright above
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90°
    image.save(path := tmp_path / "image.jpg", exif=exif, quality=95)
    with Image.open(path) as written:
        assert written.getexif()[0x0112] == 6
    assert read(path)[:4].mean() > 250 > 5 > read(path)[-4:].mean()


def sixteen_bit_colour_png(values):
    """Pillow writes none: a PNG of 16 bits a channel by its chunks. values uint16 (H, W, 3)."""
    import struct
    import zlib

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("ending", ["png", "tiff", "pgm", "big-endian tiff", "colour png"])
def test_of_16_bits_the_high_byte_counts(tmp_path, ending):
    values = pixels(SIZE, SIZE, most=65536, dtype=np.uint16)
    path = tmp_path / f"image.{ending.split()[-1]}"
    if ending == "colour png":
        values = pixels(SIZE, SIZE, 3, most=65536, dtype=np.uint16)
        path.write_bytes(sixteen_bit_colour_png(values))
    elif ending == "big-endian tiff":
        Image.fromarray(values.astype(">u2")).save(path)
    else:
        Image.fromarray(values).save(path)
    expected = values >> 8
    assert np.array_equal(read(path), expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, 2))
    if expected.ndim == 2:
        assert np.array_equal(read(path, 1)[..., 0], expected)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_of_32_bits_have_no_meaning_and_are_refused(tmp_path, dtype):
    Image.fromarray(np.ones((SIZE, SIZE), dtype)).save(path := tmp_path / "image.tiff")
    with pytest.raises(UserError, match=r"image\.tiff cannot be read as an image \(its pixels have 32 bits"):
        read(path)


@pytest.fixture
def classes(tmp_path):
    root = tmp_path / "images"
    for i, name in enumerate(("ant", "bee", "cat", "dog")):
        (root / name).mkdir(parents=True)
        for j in range(3):
            Image.new("L", (9, 9), 60 * i + j).save(root / name / f"{j}.png")
    return root


def listed(root, *names, **changes):
    (path := root.parent / "classes.txt").write_text("\n".join(names) + "\n\n")
    settings = {"source": "folder", "path": str(root), "classes": len(names), "image_size": 8, "class_list": str(path)}
    settings["validation_fraction"] = 0
    return Data(**settings | changes)


def test_a_class_list_chooses_and_orders(classes):
    config = listed(classes, "dog", "ant")
    images = data.load(config, "train")
    assert [(path.parent.name, label) for path, label in zip(images.places, images.labels, strict=True)] == [
        ("dog", 0), ("dog", 0), ("ant", 1), ("ant", 1),
    ]  # fmt: skip
    other = data.fingerprint(listed(classes, "ant", "dog"))
    assert other != data.fingerprint(listed(classes, "dog", "ant"))
    everything = config.model_copy(update={"class_list": None, "classes": 4})
    assert data.fingerprint(listed(classes, "ant", "bee", "cat", "dog")) == data.fingerprint(everything)
    own = listed(classes, "dog", "ant", test_path=str(classes))
    assert data.load(own, "test").labels.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (("dog", "eel"), {}, "names eel, which is no sub-folder"),
        (("dog", "dog"), {}, "names dog twice"),
        (("dog",), {"classes": 2}, "at least 2, or images alone, and holds 1"),
        (("dog", "ant"), {"classes": 4}, r"data\.classes=4 must be 2, the number of classes of data\.class_list"),
        (("dog", "ant"), {"class_list": "absent.txt"}, r"absent\.txt must be a text file"),
    ],
)
def test_class_lists_that_cannot_work(classes, names, changes, message):
    with pytest.raises(UserError, match=message):
        data.load(listed(classes, *names, **changes), "train")


def test_a_class_list_that_is_no_text(classes):
    config = listed(classes, "dog", "ant")
    (classes.parent / "classes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="must be a text file"):
        data.load(config, "train")
    with pytest.raises(ValueError, match=r"class_list=classes\.txt goes with data\.source=folder"):
        Data(class_list="classes.txt")
