"""MedMNIST's NPZ as a folder of images: `train/NORMAL/00000.pgm`, `val/positive/00001.pgm`, ...

The file holds `{train,val,test}_images`, uint8 [N, H, W] (grey) or [N, H, W, 3], and
`{train,val,test}_labels` [N, 1]; its parts are the split.
"""

from __future__ import annotations

import io
import math
import threading
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from engine.data.problems import DatasetError, UnreadableFile
from engine.data.zipped import list_zip, read_member

if TYPE_CHECKING:
    import numpy as np

PARTS = ("train", "val", "test")
MAX_ARRAY = 1_000_000_000  # bytes of one array, which is held in memory
FOLDERS = {0: "NORMAL", 1: "positive"}  # of a label in {0, 1}: both are known class names


def is_npz(path: Path) -> bool:
    """By its name: any ZIP may hold arrays."""
    return path.suffix.lower() == ".npz"


def list_npz(path: Path, max_unpacked: float) -> dict[str, str]:
    """Name of each image -> where it is, as `NpzReader.read` takes it.

    Labels other than 0 and 1 are folders of their own number, for `data.label_map`. Raises
    DatasetError.
    """
    members = list_zip(path, max_unpacked)
    if "train_images.npy" not in members:
        raise DatasetError(f"{path}: there is no train_images in it; is it a file of MedMNIST?")
    names: dict[str, str] = {}
    for part in PARTS:
        images, labels = f"{part}_images.npy", f"{part}_labels.npy"
        if images not in members:
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                shape, _ = _require_images(archive, images)
                values = _load(archive, labels)
        except (KeyError, UnreadableFile, zipfile.BadZipFile, OSError, ValueError) as error:
            raise DatasetError(f"{path}: {part}_images or {part}_labels: {error}") from error
        if values.dtype.kind not in "iub" or values.size != shape[0]:
            raise DatasetError(
                f"{path}: {part}_labels is {values.dtype} {values.shape} for {shape[0]} images; "
                "one whole number for each image is needed (a set of several findings for each "
                "image, as ChestMNIST, must be reduced to one)"
            )
        for number, label in enumerate(values.ravel().tolist()):
            folder = FOLDERS.get(int(label), str(label))
            names[f"{part}/{folder}/{number:06d}.pgm"] = f"{part}/{number}"
    return names


class NpzReader:
    """Images of one NPZ as PGM or PPM files; arrays are kept in memory once they are read."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path)
        self._arrays: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()  # an array is read once, whichever thread is first

    def read(self, where: str) -> bytes:
        """One image, as `list_npz` says where it is. Raises what zipfile raises."""
        part, _, number = where.partition("/")
        with self._lock:
            if part not in self._arrays:
                self._arrays[part] = _load(self._archive, f"{part}_images.npy")
        image = self._arrays[part][int(number)]
        kind = b"P5" if image.ndim == 2 else b"P6"
        return b"%s %d %d 255\n" % (kind, image.shape[1], image.shape[0]) + image.tobytes()

    def state(self, where: str) -> tuple[int, ...]:
        """Bytes of one image, and the checksum of the array it is in."""
        part = PurePosixPath(where).parts[0]
        shape, crc = _require_images(self._archive, f"{part}_images.npy")
        return math.prod(shape[1:]), crc

    def close(self) -> None:
        """Close the file and let the arrays go."""
        self._archive.close()
        self._arrays.clear()


def _require_images(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], int]:
    """Shape and checksum of an array of images, from its header alone. Raises UnreadableFile."""
    import numpy as np  # not at the top: who lists a data set needs no arrays

    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
    grey = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    if dtype != np.uint8 or not grey:
        raise UnreadableFile(f"it is {dtype} {shape}, and images are uint8 [N, H, W]")
    return tuple(map(int, shape)), archive.getinfo(name).CRC


def _load(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array without Python objects; grey images [N, H, W, 1] as [N, H, W]."""
    import numpy as np

    content = io.BytesIO(read_member(archive, name, MAX_ARRAY))
    found: np.ndarray = np.load(content, allow_pickle=False)
    return found[..., 0] if found.ndim == 4 and found.shape[3] == 1 else found
