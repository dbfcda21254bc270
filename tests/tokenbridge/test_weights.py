"""Files that are given as weights: what they are is said, and nothing in them is run."""

import io
import os
import pickle
import tarfile
import warnings

import joblib
import numpy as np
import pytest
import torch

from tokenbridge.config import UserError
from tokenbridge.weights import read, read_checkpoint


class Bomb:
    """On reading, makes a folder: what a pickle must not do."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def _legacy_tar(value, path):
    """As torch before 0.1.10 wrote."""
    parts = {"sys_info": {"protocol_version": 1000, "little_endian": True}, "pickle": value, "storages": 0}
    with tarfile.open(path, "w") as tar:
        for name, part in parts.items():
            content = pickle.dumps(part)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _script(value, path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))


def _array(value, path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def _objects(value, path):
    np.savez(path.with_suffix(".npz"), mu=np.array([value], object))
    path.with_suffix(".npz").rename(path)


KINDS = {
    "raw pickle": (lambda value, path: path.write_bytes(pickle.dumps(value)), "a raw pickle, which can run code"),
    "pickle of 2008": (lambda value, path: path.write_bytes(pickle.dumps(value, 2)), "asks for "),
    "joblib": (joblib.dump, "a raw pickle, which can run code"),
    "compressed joblib": (lambda value, path: joblib.dump(value, path, compress=3), "a compressed file, such as"),
    "legacy tar": (_legacy_tar, "a legacy tar of torch before 0.1.10, whose pickles can run code"),
    "legacy file": (lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False), "asks for "),
    "zip": (torch.save, "asks for "),
    "TorchScript": (_script, "a TorchScript, a program of which nothing was run"),
    "objects of NumPy": (_objects, "an .npz file of NumPy"),
    "array": (_array, "a .npy file of NumPy"),
    "page": (lambda value, path: path.write_text("<!doctype html>not found"), "a page of HTML or XML"),
    "nothing": (lambda value, path: path.touch(), "an empty file"),
}


@pytest.mark.parametrize(("write", "words"), KINDS.values(), ids=list(KINDS))
def test_a_file_of_another_kind_is_named_and_not_run(write, words, tmp_path):
    path, ran = tmp_path / "weights.pth", tmp_path / "ran"
    write({"weight": Bomb(ran)}, path)
    with pytest.raises(UserError) as error:
        read_checkpoint(path, "correct the path")
    assert words in str(error.value)
    assert str(error.value).endswith("correct the path")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="must be a whole safetensors file"):
        read(path)
    assert not ran.exists()


def test_a_legacy_checkpoint_of_tensors_is_read(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.arange(3)}, path, _use_new_zipfile_serialization=False)
    assert read_checkpoint(path, "correct the path")["weight"].tolist() == [0, 1, 2]
