"""DICOM files as a scanner might write them, for tests."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

PATIENT = {
    "PatientName": "Zimmermann^Annegret",
    "PatientID": "PID-8675309",
    "PatientBirthDate": "19470213",
    "InstitutionName": "Sankt Quirinus Hospital",
}


def write_dicom(file: Path | BinaryIO, pixels: np.ndarray, *, syntax: str = "1.2.840.10008.1.2.1", **tags: Any) -> Any:
    """Pixels and tags as a file; 12 bits are stored of 16, MONOCHROME2 or RGB, unless the tags say otherwise.

    A compressed syntax gets a body that is no such thing. Returns `file`.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    colour = pixels.shape[-1] == 3 and pixels.ndim > 2
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.8"
    rows, columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    stored = 8 if pixels.dtype == np.uint8 else 12
    values = {
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": 8 * pixels.dtype.itemsize,
        "BitsStored": stored,
        "HighBit": stored - 1,
        "PixelRepresentation": 0,
        **({"PlanarConfiguration": 0} if colour else {}),
    }
    for key, value in (values | tags).items():
        setattr(dataset, key, value)
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    if UID(syntax).is_transfer_syntax and UID(syntax).is_compressed and not UID(syntax).is_deflated:
        dataset.PixelData = encapsulate([b"no such image"])
        dataset["PixelData"].is_undefined_length = True
    if isinstance(file, Path):
        file.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    known = UID(syntax).is_transfer_syntax
    dataset.save_as(file, **({} if known else {"implicit_vr": False, "little_endian": True}), enforce_file_format=True)
    return file
