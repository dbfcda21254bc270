"""What a folder of images is like, and folders of images without classes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tokenbridge.data.test_folders import draw
from tokenbridge.config import Data, UserError
from tokenbridge.data import files
from tokenbridge.data.folders import EXTENSIONS
from tokenbridge.data.images import load, stack
from tokenbridge.data.survey import stride_of, survey


def photograph(path: Path, width: int, height: int, grey: bool = False) -> Path:
    """Blocks of random colours, as JPEG, whose rounding is no colour."""
    blocks = np.random.default_rng(height).integers(0, 256, (height, width, 1 if grey else 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blocks.repeat(3 if grey else 1, 2)).save(path, quality=60)
    return path


def test_sizes_and_colours_are_those_of_the_files(tmp_path):
    for i in range(9):
        draw(tmp_path / "grey" / "ab"[i % 2] / f"{i}.png", i)
        photograph(tmp_path / "saved as colours" / f"{i}.jpg", 40 + i, 37, grey=True)
        photograph(tmp_path / "mixed" / f"{i}.jpg", 300, 290 + i, grey=i != 7)
    grey, saved, mixed = (survey(tmp_path / name) for name in ("grey", "saved as colours", "mixed"))
    assert (grey.images, grey.classes, grey.smallest, grey.largest, grey.grey) == (9, 2, 8, 8, True)
    assert (saved.classes, saved.smallest, saved.grey, saved.size(4)) == (1, 37, True, 36)
    assert (mixed.smallest, mixed.largest, mixed.grey, mixed.size(8)) == (290, 298, False, 256)
    assert (grey.sizes(), mixed.sizes()) == ("8", "290 to 298 (median 294)")
    with pytest.raises(UserError, match="images of 8 pixels must have 16 at least; give the size"):
        grey.size(16)


@pytest.mark.parametrize(("size", "stride"), [(4, 2), (8, 2), (16, 4), (28, 4), (30, 2), (32, 8), (256, 8)])
def test_a_stride_leaves_four_positions_where_it_can(size, stride):
    assert stride_of(size) == stride


def test_images_without_class_folders_are_one_class(tmp_path):
    for i in range(20):
        draw(tmp_path / "flat" / f"{i:02}.png", 10 * i)
    (tmp_path / "flat" / "notes.txt").write_text("of the photographer")
    config = Data(source="folder", path=str(tmp_path / "flat"), classes=1, image_size=8)
    parts = [stack(load(config, split)) for split in files.splits(config)]
    assert [len(pixels) for pixels, _ in parts] == [13, 3, 4]
    assert not any(labels.any() for _, labels in parts)
    assert sorted(pixels.mean() for pixels in np.concatenate([p for p, _ in parts])) == [10 * i for i in range(20)]
    assert list(files.remarks(config)) == [
        "data.path: 20 images without class folders: one class",
        f"data.path: left out: 1 .txt; images end in {' '.join(EXTENSIONS)}",
    ]
    with pytest.raises(UserError, match=r"data\.classes=2 must be 1, the number of classes of .*, which holds images"):
        files.fingerprint(config.model_copy(update={"classes": 2}))


@pytest.mark.parametrize(("made", "said"), [("a/one.png", "and holds 1; give .*/a itself"), ("x.txt", "and holds 0")])
def test_one_class_folder_and_no_images_are_refused(tmp_path, made, said):
    draw(tmp_path / made) if made.endswith("png") else (tmp_path / made).write_text("")
    with pytest.raises(UserError, match=said):
        survey(tmp_path)
    with pytest.raises(UserError, match=said):
        files.fingerprint(Data(source="folder", path=str(tmp_path), classes=1))
