"""Writes DICOM files for tests."""

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid


def write_dicom(
    path: Path, pixels: np.ndarray | None, bits: int = 12, photometric: str = "MONOCHROME2", **tags
) -> Path:
    """Write a radiograph with `bits` stored bits and further elements `tags`; without `pixels` it has no pixel data."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.PatientName = "Doe^Jane"
    data.PatientID = "secret"
    if pixels is not None:
        data.Rows, data.Columns = pixels.shape[-2:] if pixels.shape[-1] != 3 else pixels.shape[:2]
        data.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
        data.BitsAllocated = 8 if bits <= 8 else 16
        data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, 0
        data.PhotometricInterpretation = photometric
        if data.SamplesPerPixel == 3:
            data.PlanarConfiguration = 0
        data.PixelData = pixels.astype(np.uint8 if bits <= 8 else "<u2").tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path
