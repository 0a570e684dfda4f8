"""Every reader turns its kind of file into 8-bit pixels and refuses the rest."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from fairtune.data.decode import Decoder
from fairtune.data.readers import READERS, Reader
from fairtune.errors import ConfigError

RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def dicom(pixels: Any, **fields: Any) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    file = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID = SecondaryCaptureImageStorage
    file.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit, file.PixelRepresentation = 15, 0
    for name, value in fields.items():
        setattr(file, name, value)
    file.PixelData = pixels.astype(np.uint16).tobytes()
    out = io.BytesIO()
    pydicom.dcmwrite(out, file, enforce_file_format=True)
    return out.getvalue()


STORED = np.array([[0, 1000], [2000, 4000]])


@pytest.mark.parametrize(
    ("reader", "content", "expected"),
    [
        ("pil", encoded(Image.fromarray(RAMP)), RAMP),
        ("pil", encoded(Image.fromarray(np.array([[0, 65535], [257, 514]], dtype=np.uint16))),
         [[0, 255], [1, 2]]),
        ("pil", encoded(Image.fromarray(np.array([[0.0, 1.0]], dtype=np.float32)), "TIFF"),
         [[0, 255]]),
        ("pil", encoded(Image.fromarray(RAMP > 100)), (RAMP > 100) * 255),
        ("npy", npy(RAMP), RAMP),
        ("npy", npy(RAMP[:, :, None]), RAMP),
        ({"npy": {"scale": "unit"}}, npy(np.array([[0.0, 0.5, 1.0, 2.0]])), [[0, 128, 255, 255]]),
        ({"npy": {"scale": "minmax"}}, npy(np.array([[-1000, 0, 1000]])), [[0, 128, 255]]),
        ({"npy": {"scale": "minmax"}}, npy(np.array([[5, 5]])), [[0, 0]]),
        ("npy", npy(np.array([[0.0, 0.5, 1.5]])), [[0, 0, 1]]),
        ("npy", npy(np.zeros((1, 2))), [[0, 0]]),
        ("npy", npy(np.array([[0, 1]])), [[0, 1]]),
        ({"npz": {"key": "img"}}, npz(img=RAMP, other=RAMP * 0), RAMP),
        ("dicom", dicom(STORED), [[0, 64], [128, 255]]),
        ("dicom", dicom(STORED, PhotometricInterpretation="MONOCHROME1"), [[255, 191], [128, 0]]),
        # Rescaled to -1000..3000; the window 500.5 +- 500 of the file cuts both ends.
        ("dicom", dicom(STORED, RescaleSlope=1, RescaleIntercept=-1000, WindowCenter=501,
                        WindowWidth=1001), [[0, 0], [255, 255]]),
        ({"dicom": {"center": 2000.5, "width": 4001}},
         dicom(STORED, WindowCenter=1, WindowWidth=2), [[0, 64], [128, 255]]),
        ("dicom", dicom(STORED, WindowCenter=[2000.5, 1], WindowWidth=[4001, 2]),
         [[0, 64], [128, 255]]),
    ],
)  # fmt: skip
def test_pixels(reader: Any, content: bytes, expected: Any) -> None:
    image = READERS.parse(reader).read(content)
    assert image.mode == "L"
    assert np.asarray(image).tolist() == np.asarray(expected).tolist()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "LA"])
def test_pillow_modes_become_grey_or_rgb(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    image = READERS.parse("pil").read(encoded(Image.new("RGB", (3, 2), "red").convert(mode), kind))
    assert image.mode == ("L" if mode == "LA" else "RGB")


@pytest.mark.parametrize(
    ("reader", "content"),
    [
        ("pil", b"no image"),
        ("npy", b"no array"),
        ("npy", npy(np.zeros((2, 2, 4)))),
        ("npy", npy(np.array([[300.0]]))),
        ("npy", npy(np.array([[np.nan]]))),
        ("npy", npy(np.array([[0.0, 0.5, 1.0]]))),
        ("npy", npy(np.array([["text"]]))),
        ("npy", npy(np.zeros((0, 3)))),
        ({"npz": {"key": "img"}}, npz(other=RAMP)),
        ("dicom", b"no dicom"),
        ("dicom", dicom(STORED)[:-4]),
    ],
)
def test_what_is_no_image_is_refused(reader: Any, content: bytes) -> None:
    with pytest.raises((ValueError, OSError)):
        READERS.parse(reader).read(content)


def test_a_pickled_array_is_not_run() -> None:
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        READERS.parse("npy").read(out.getvalue())


def test_fields_are_checked() -> None:
    with pytest.raises(ConfigError, match="key"):
        READERS.parse("npz")
    with pytest.raises(ConfigError, match="did you mean 'dicom'"):
        READERS.parse("dicm")


@pytest.mark.parametrize("name", READERS.names())
def test_a_reader_survives_writing_and_reading(name: str) -> None:
    reader = READERS.parse({name: {"key": "img"} if name == "npz" else {}})
    assert isinstance(reader, Reader)
    assert READERS.parse({name: reader.to_json()}) == reader


@pytest.mark.parametrize(
    ("resize", "left", "middle"), [("squash", 0, 255), ("crop", 255, 255), ("pad", 0, 255)]
)
def test_resize_rules(resize: str, left: int, middle: int) -> None:
    # A wide image, black but for its white middle.
    wide = np.zeros((20, 60), dtype=np.uint8)
    wide[:, 16:44] = 255
    decoder = Decoder(READERS.parse("pil"), resize, 12, 3)
    square = decoder.square(Image.fromarray(wide))
    assert square.shape == (12, 12, 3)
    assert square[6, 0].tolist() == [left] * 3
    assert square[6, 6].tolist() == [middle] * 3
    assert (square[0, 6].max() == 0) == (resize == "pad")
