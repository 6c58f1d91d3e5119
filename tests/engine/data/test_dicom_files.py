"""DICOM as it is: pydicom's own files, all transfer syntaxes, and what the headers say."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config import ConfigManager
from engine.data.decode import UnreadableImage, decode
from engine.data.headers import PATIENT, patient_key
from engine.data.prepare import prepare
from tests.engine.data.test_dicom import VALUES, dicom

pydicom = pytest.importorskip("pydicom")
from pydicom.pixels import apply_modality_lut, apply_voi_lut  # noqa: E402

FOLDER = Path(pydicom.__file__).parent / "data"
# Of the files in the package: what is damaged or unlike any image on purpose.
BROKEN = {"MR_truncated.dcm", "JPEG2000-embedded-sequence-delimiter.dcm"}


def single_grey_images() -> dict[str, Any]:
    """Every file of pydicom's package that holds one grey frame, read."""
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        if not path.is_file() or path.read_bytes()[128:132] != b"DICM":
            continue
        image = pydicom.dcmread(path)
        frames = str(image.get("NumberOfFrames") or 1)
        grey = str(image.get("PhotometricInterpretation", "")).startswith("MONOCHROME")
        if "PixelData" in image and grey and frames == "1" and "Rows" in image:
            found[path.relative_to(FOLDER).as_posix()] = image
    return found


def test_pydicoms_own_files_are_read_as_pydicom_shows_them() -> None:
    """The same picture up to its scale: pixel_array, modality and VOI, inverted for MONOCHROME1."""
    pytest.importorskip("gdcm")
    compared, syntaxes = 0, set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = single_grey_images()
        for name, image in images.items():
            data = (FOLDER / name).read_bytes()
            if Path(name).name in BROKEN:
                with pytest.raises(UnreadableImage, match="DICOM"):
                    decode(data, name)
                continue
            found = decode(data, name).pixels.astype(float)
            syntaxes.add(image.file_meta.TransferSyntaxUID)
            if Path(name).name in ("JPEG-lossy.dcm", "JPGExtended.dcm"):
                # pydicom asks no free decoder for 12 bits; two values of its own tests.
                assert (found[420, 140], found[230, 120]) == (15, 6)  # 244 and 95 of 4095
                continue
            shown = np.asarray(apply_modality_lut(image.pixel_array, image), float)
            windowed = "WindowCenter" in image or "VOILUTSequence" in image
            if windowed:
                shown = np.asarray(
                    apply_voi_lut(apply_modality_lut(image.pixel_array, image), image)
                )
            if image.PhotometricInterpretation == "MONOCHROME1":
                shown = shown.max() - shown
            _assert_same_picture(found, shown.astype(float), name, clipped=not windowed)
            compared += 1
    assert compared >= 55
    assert len(syntaxes) >= 9


def _assert_same_picture(found: np.ndarray, shown: np.ndarray, name: str, clipped: bool) -> None:
    """Equal but for offset, scale and rounding; `clipped` below what few pixels exceed."""
    assert found.shape == shown.shape, name
    inside = (found > 0) & (found < 255)
    if np.ptp(found[inside]) < 2 if inside.any() else True:
        order = np.argsort(shown, axis=None)
        assert (np.diff(found.ravel()[order]) >= 0).all(), name
        return
    slope, offset = np.polyfit(shown[inside], found[inside], 1)
    assert slope > 0, name
    np.testing.assert_allclose(
        found[inside], shown[inside] * slope + offset, atol=1.1, err_msg=name
    )


def reencoded(values: np.ndarray, kind: str, tmp_path: Path, **tags: object) -> bytes:
    """The file of `dicom` in another transfer syntax, encoded by GDCM."""
    gdcm = pytest.importorskip("gdcm")
    source, target = tmp_path / "plain.dcm", tmp_path / "encoded.dcm"
    source.write_bytes(dicom(values, SOPClassUID="1.2.840.10008.5.1.4.1.1.7",
                             SOPInstanceUID="1.2.3", **tags))  # fmt: skip
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, kind)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(target))
    assert writer.Write()
    return target.read_bytes()


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("JPEGLosslessProcess14", "1.2.840.10008.1.2.4.57"),
        ("JPEGLosslessProcess14_1", "1.2.840.10008.1.2.4.70"),
        ("JPEGLSLossless", "1.2.840.10008.1.2.4.80"),
        ("JPEGLSNearLossless", "1.2.840.10008.1.2.4.81"),
        ("JPEG2000Lossless", "1.2.840.10008.1.2.4.90"),
        ("JPEG2000", "1.2.840.10008.1.2.4.91"),
        ("RLELossless", "1.2.840.10008.1.2.5"),
        ("ImplicitVRLittleEndian", "1.2.840.10008.1.2"),
        ("ExplicitVRBigEndian", "1.2.840.10008.1.2.2"),
    ],
)
def test_each_transfer_syntax_gives_the_grey_of_the_uncompressed_file(
    kind: str, syntax: str, bits: int, tmp_path: Path
) -> None:
    values = VALUES >> 2 if bits == 10 else VALUES << (bits - 12)
    tags = {"BitsStored": bits, "HighBit": bits - 1}
    data = reencoded(values, kind, tmp_path, **tags)
    assert pydicom.dcmread(io.BytesIO(data)).file_meta.TransferSyntaxUID == syntax
    plain = decode(dicom(values, **tags), "a.dcm").pixels
    np.testing.assert_allclose(decode(data, "a.dcm").pixels.astype(int), plain, atol=1)


def test_an_encoded_frame_of_another_size_than_the_header_says_is_refused(tmp_path: Path) -> None:
    for kind in ("JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"):
        image = pydicom.dcmread(io.BytesIO(reencoded(VALUES, kind, tmp_path)))
        image.Rows = 4000
        file = io.BytesIO()
        image.save_as(file)
        with pytest.raises(UnreadableImage, match="60 x 40, and its header says 60 x 4000"):
            decode(file.getvalue(), "a.dcm")


def test_a_missing_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = reencoded(VALUES, "JPEGLosslessProcess14_1", tmp_path)
    from pydicom.pixels.decoders.base import Decoder

    monkeypatch.setattr(Decoder, "is_available", property(lambda _: False))
    with pytest.raises(UnreadableImage, match=r"JPEG Lossless.* needs the package python-gdcm"):
        decode(data, "a.dcm")


def test_an_inverse_presentation_shape_is_one_inversion() -> None:
    plain = decode(dicom(VALUES), "a.dcm").pixels
    for kind, shape, inverted in (
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
    ):
        tags = {"PhotometricInterpretation": kind, "PresentationLUTShape": shape}
        found = decode(dicom(VALUES, **tags), "a.dcm").pixels
        np.testing.assert_array_equal(found, 255 - plain if inverted else plain)


def test_headers_become_columns_and_identities_a_keyed_hash(tmp_path: Path) -> None:
    key = patient_key(tmp_path)
    tags = {"PatientID": "4711", "PatientName": "Doe^Jane", "PatientAge": "093Y",
            "PatientBirthDate": "19300405", "PatientSex": "F", "ViewPosition": "AP",
            "Manufacturer": "ACME", "StudyDate": "20230601", "Modality": "DX"}  # fmt: skip
    facts = decode(dicom(VALUES, **tags), "b/a.dcm", patient_key=key).facts
    patient = facts.pop(PATIENT)
    assert facts == {"age": "90", "sex": "F", "view": "AP", "maker": "ACME", "modality": "DX",
                     "year": "2023"}  # fmt: skip
    assert "4711" not in patient
    again = decode(dicom(VALUES + 1, **tags), "c.dcm", patient_key=patient_key(tmp_path)).facts
    assert again[PATIENT] == patient
    (tmp_path / "other").mkdir()
    other = patient_key(tmp_path / "other")
    assert decode(dicom(VALUES, **tags), "a.dcm", patient_key=other).facts[PATIENT] != patient
    assert (tmp_path / "patient.key").stat().st_mode & 0o077 == 0


def test_an_id_that_is_the_images_name_is_no_patient() -> None:
    data = dicom(VALUES, PatientID="0004cfab")
    assert PATIENT not in decode(data, "train/0004cfab.dcm", patient_key=b"k" * 32).facts


@pytest.mark.parametrize(
    ("tags", "age"),
    [
        ({"PatientAge": "006M"}, "0.5"),
        ({"PatientAge": "045Y"}, "45"),
        ({"PatientBirthDate": "19800602", "StudyDate": "20230601"}, "42"),
        ({"PatientAge": "999Y"}, None),
    ],
)
def test_ages_are_years(tags: dict[str, str], age: str | None) -> None:
    assert decode(dicom(VALUES, **tags), "a.dcm", patient_key=b"k" * 32).facts.get("age") == age


def test_a_folder_of_dicom_is_split_by_its_patients_and_tells_no_identity(tmp_path: Path) -> None:
    """Patients and columns from the headers; no identity in the report, a warning or the cache."""
    rng = np.random.default_rng(0)
    for person in range(16):
        folder = tmp_path / "data" / ("NORMAL", "PNEUMONIA")[person % 2] / f"study{person}"
        folder.mkdir(parents=True)
        for view in ("PA", "AP"):
            tags = {"PatientID": f"MRN{person:06d}", "PatientName": f"Secret^{person}",
                    "PatientBirthDate": "19500102", "StudyDate": "20230601",
                    "ViewPosition": view, "AccessionNumber": f"ACC{person}"}  # fmt: skip
            values = rng.integers(0, 4096, (40, 40)).astype(np.uint16)
            (folder / f"{view}.dcm").write_bytes(dicom(values, **tags))
    config = ConfigManager.load(
        overrides={"output.cache_dir": str(tmp_path / "cache"), "data.image_size": 32}
    )
    found = prepare(tmp_path / "data", config)
    assert found.report["split"]["patient_ids"] == "shared"
    assert found.report["split"]["shared_patients"] == 0
    assert len(set(found.patients)) == 16
    assert set(found.columns["view"]) == {"PA", "AP"}
    assert found.columns["age"][0] == "73"
    codes = dict(found.warnings)
    assert "no_patient_ids" not in codes
    written = [json.dumps(found.report), str(found.warnings), str(found.patients)]
    written += [path.read_text() for path in (tmp_path / "cache").rglob("*.jsonl")]
    for secret in ("MRN0", "Secret", "19500102", "20230601", "ACC"):
        assert not any(secret in text for text in written), secret
