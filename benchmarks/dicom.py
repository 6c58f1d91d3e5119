"""How fast are DICOM files decoded? `python -m benchmarks.dicom`

Per core, radiographs of 2048 x 2048 pixels with 12 of 16 bits and a window: uncompressed, JPEG
Lossless and JPEG-LS. Beside it pydicom alone, from the same bytes: to its `pixel_array`, and on to
the 8-bit grey that a viewer shows (rescaled, windowed, scaled). In turns, the first one thrown
away.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.lib.record import write_result
from engine.data.decode import decode

ENCODINGS = {
    "uncompressed": None,
    "JPEG Lossless": "JPEGLosslessProcess14_1",
    "JPEG-LS": "JPEGLSLossless",
}
BAR = 0.9  # of the rate of pydicom alone, to the same grey


def main() -> int:
    """Measure, print the table, write the JSON; 2 where the decoders are not installed."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--side", type=int, default=2048)
    options.add_argument("--rounds", type=int, default=9)
    given = options.parse_args()
    try:
        files = {name: radiograph(given.side, kind) for name, kind in ENCODINGS.items()}
    except ImportError as error:
        print(f"error: {error}; pip install 'pneumoscope[dicom]'", file=sys.stderr)
        return 2
    figures = {}
    for name, data in files.items():
        found = measure(data, given.rounds)
        share = found["pydicom_grey"] / found["engine"]
        figures[name] = {
            "bytes": len(data),
            "engine_images_per_second": 1 / found["engine"],
            "pydicom_grey_images_per_second": 1 / found["pydicom_grey"],
            "pydicom_pixels_images_per_second": 1 / found["pydicom_pixels"],
            "of_pydicom": share,
            "bar": BAR,
        }
        print(
            f"{name:14s} {1 / found['engine']:6.1f} images/s and core; pydicom alone "
            f"{1 / found['pydicom_grey']:.1f} to the same grey, "
            f"{1 / found['pydicom_pixels']:.1f} to pixel_array: {share:.2f}, bar {BAR}"
        )
    print("written to", write_result("dicom", vars(given), figures))
    return 0


def measure(data: bytes, rounds: int) -> dict[str, float]:
    """Seconds of each way to decode a file, the medians of `rounds`."""
    ways: dict[str, Callable[[bytes], object]] = {
        "engine": lambda data: decode(data, "a.dcm"),
        "pydicom_grey": pydicom_grey,
        "pydicom_pixels": pydicom_pixels,
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, run in ways.items():
            began = time.perf_counter()
            run(data)
            if turn:
                seconds[way].append(time.perf_counter() - began)
    return {way: statistics.median(values) for way, values in seconds.items()}


def pydicom_pixels(data: bytes) -> np.ndarray:
    """What pydicom gives for `pixel_array`."""
    import pydicom

    pixels: np.ndarray = pydicom.dcmread(io.BytesIO(data)).pixel_array
    return pixels


def pydicom_grey(data: bytes) -> np.ndarray:
    """Rescaled and windowed by pydicom's functions, then scaled to 8 bits."""
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    image = pydicom.dcmread(io.BytesIO(data))
    shown = apply_voi_lut(apply_modality_lut(image.pixel_array, image), image)
    white = (1 << image.BitsStored) - 1
    grey: np.ndarray = np.rint(shown * (255 / white)).clip(0, 255).astype(np.uint8)
    return grey


def radiograph(side: int, kind: str | None) -> bytes:
    """A smooth image with detector noise, in GDCM's transfer syntax `kind` or uncompressed."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    smooth = 2000 + 1400 * np.sin(7 * x) * np.cos(10 * y)
    values = (smooth + rng.normal(0, 12, smooth.shape)).clip(0, 4095).astype("<u2")
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    image = FileDataset("a.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = (
        SecondaryCaptureImageStorage,
        meta.MediaStorageSOPInstanceUID,
    )
    image.Rows = image.Columns = side
    image.SamplesPerPixel, image.PixelRepresentation = 1, 0
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.RescaleSlope, image.RescaleIntercept = 1, 0
    image.WindowCenter, image.WindowWidth = 2048, 3500
    image.PixelData = values.tobytes()
    file = io.BytesIO()
    pydicom.dcmwrite(file, image)
    return file.getvalue() if kind is None else _encoded(file.getvalue(), kind)


def _encoded(data: bytes, kind: str) -> bytes:
    import gdcm

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.dcm", Path(folder) / "b.dcm"
        source.write_bytes(data)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(source))
        reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, kind)))
        change.SetInput(reader.GetImage())
        change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(target))
        writer.Write()
        return target.read_bytes()


if __name__ == "__main__":
    sys.exit(main())
