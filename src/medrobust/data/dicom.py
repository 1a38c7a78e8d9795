"""DICOM files as pixels: the grey levels that a reader's screen would show, and nothing about the patient.

Only the tags of the image are parsed, and no text of pydicom reaches a message, because it may quote a file's values.
Source: DICOM PS3.3, C.7.6.3 (pixels), C.11.1 (modality), C.11.2 (window).
"""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from medrobust.data.decoded import Decoded, check_size
from medrobust.errors import DataError

DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_PALETTE = "PALETTE COLOR"
_PALETTE_TAGS = [
    f"{kind}{colour}PaletteColorLookupTable{end}"
    for colour in ("Red", "Green", "Blue")
    for kind, end in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
]
_TAGS = [
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "VOILUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PixelData",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", *_PALETTE_TAGS,
]  # fmt: skip
_WHOLE = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation", "NumberOfFrames")
_NEEDED = ("PhotometricInterpretation", *_WHOLE[:5])
# where a multi-frame file keeps what others keep at the top
_PER_FRAME = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
_PLUGINS = {"JPEG 2000": "pylibjpeg pylibjpeg-openjpeg", "JPEG": "pylibjpeg pylibjpeg-libjpeg"}
_DAMAGED = "is a damaged DICOM file; export it again"
_ALONE = threading.Lock()  # filters of warnings belong to the process


def is_dicom(path: Path) -> bool:
    """True for a DICOM file, by its name or its first bytes. Raises OSError where it cannot be opened."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom(path: Path) -> Decoded:
    """The first frame as a screen would show it, black 0 and white 1.

    Grey levels go through the rescaling or modality table, then through the first window or VOI table; without one,
    all values that the stored bits allow are shown. MONOCHROME1 is inverted and padding is black. Colour is RGB.
    Depth is kept: 8-bit colour is as Pillow holds it, all else float32.

    Raises `DataError`, whose sentence begins after the file's name and quotes no tag of a patient.
    """
    try:
        import pydicom as pydicom
    except ImportError:
        raise DataError('is a DICOM file, which needs pydicom: pip install "medrobust[dicom]"') from None
    with _quiet():
        _check_syntax(path)
        header = _header(path)
        stored = _stored(header)
        grey = header.PhotometricInterpretation in _GREY
        with _refusing("has a rescaling, window or table of values that makes no sense; export it again"):
            pixels = _grey(stored, header) if grey else _colour(stored, header)
    window = ", no window" if grey and not ("VOILUTSequence" in header or _has_window(header)) else ""
    kind = f"DICOM {header.PhotometricInterpretation}, {header.BitsStored} bits{window}"
    return Decoded(pixels, kind, int(getattr(header, "NumberOfFrames", 1)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence pydicom's messages about a file, and make Pillow's warning about size an error."""
    logger = logging.getLogger("pydicom")
    with _ALONE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", category=Pillow.DecompressionBombWarning)
        heard, logger.propagate = logger.propagate, False
        try:
            yield
        finally:
            logger.propagate = heard


@contextmanager
def _refusing(sentence: str) -> Iterator[None]:
    """Replace any error by that sentence, because the cause may quote the file."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}" if error.strerror else sentence) from None
    except Exception:  # noqa: BLE001 - broken bytes end in many kinds of exception
        raise DataError(sentence) from None


def _header(path: Path) -> Any:
    """The image's own tags, checked; empty ones left out."""
    from pydicom import dcmread

    with _refusing(_DAMAGED):
        header = dcmread(path, specific_tags=list(_TAGS))
        for tag in [element.tag for element in header if element.is_empty]:
            del header[tag]
        _flatten(header)
        for key in _WHOLE:
            if key in header:
                setattr(header, key, int(header[key].value))
    if "PixelData" not in header or any(key not in header for key in _NEEDED):
        raise DataError(
            "has no pixel data: it is a report or another object without an image, or the file is cut off; remove it "
            "or export it again"
        )
    check_size(header.Columns, header.Rows)
    if header.PhotometricInterpretation not in (*_GREY, *_COLOUR, _PALETTE):
        kinds = ", ".join((*_GREY, *_COLOUR, _PALETTE))
        raise DataError(f"has pixels of another photometric interpretation than {kinds}; convert it to RGB or grey")
    return header


def _flatten(header: Any) -> None:
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in header.get(groups, [])[:1]:
            for item in (item for key in _PER_FRAME for item in group.get(key, [])[:1]):
                header.update({element.tag: element for element in item if not element.is_empty})


def _check_syntax(path: Path) -> None:
    """Raise `DataError` for a transfer syntax that cannot be read here, with what would read it.

    Comes before anything else, because a small deflated file may hold any number of bytes.
    """
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_file_meta_info
    from pydicom.pixels.decoders.base import get_decoder

    with _refusing(_DAMAGED):
        try:
            syntax = read_file_meta_info(path).get("TransferSyntaxUID")
        except InvalidDicomError:
            raise DataError("is not a DICOM file: the letters DICM are missing after its first 128 bytes") from None
        known = syntax is not None and not syntax.is_private and syntax.is_transfer_syntax
        deflated = known and syntax.is_deflated
    if not known:
        raise DataError("names no transfer syntax that is known, so its pixels cannot be decoded; export it again")
    try:
        readable = not deflated and get_decoder(syntax).is_available
    except NotImplementedError:
        readable = False
    if not readable:
        raise DataError(f"is stored as {syntax.name}, {_help(syntax.name)}")


def _help(name: str) -> str:
    plugin = next((plugin for word, plugin in _PLUGINS.items() if word in name), None)
    if plugin is None:
        return "which is not read; store it uncompressed (Explicit VR Little Endian)"
    return f"which needs another decoder: pip install {plugin} (or python-gdcm), or store it uncompressed"


def _stored(header: Any) -> np.ndarray:
    """The first frame's values as they are stored; colours as RGB."""
    from pydicom.pixels.utils import pixel_array

    syntax = header.file_meta.TransferSyntaxUID
    values = header.Rows * header.Columns * header.SamplesPerPixel
    if header.PhotometricInterpretation == "YBR_FULL_422":
        values = values * 2 // 3
    wanted, found = (values * header.BitsAllocated + 7) // 8, len(header.PixelData)
    if not syntax.is_encapsulated and found < wanted:
        raise DataError(f"is cut off: {found} of {wanted} bytes of its first frame are there; export it again")
    damaged = "cannot be decoded: it is damaged or cut off; export it again"
    if any(word in syntax.name for word in _PLUGINS):
        damaged = f"cannot be decoded: it is damaged, or of a kind of {syntax.name} {_help(syntax.name)}"
    with _refusing(damaged):
        pixels: np.ndarray = pixel_array(header, index=0)
    return pixels


def _grey(stored: np.ndarray, header: Any) -> np.ndarray:
    from pydicom.pixels.processing import apply_modality_lut

    least = -(2 ** (header.BitsStored - 1)) if getattr(header, "PixelRepresentation", 0) == 1 else 0
    low, high = float(least), float(least + 2**header.BitsStored - 1)
    values = stored.astype(np.int64)
    shown = apply_modality_lut(values, header)
    if table := getattr(header, "ModalityLUTSequence", None):
        low, high = 0.0, float(2 ** int(table[0].LUTDescriptor[2]) - 1)
    elif "RescaleSlope" in header and "RescaleIntercept" in header:
        low, high = (value * float(header.RescaleSlope) + float(header.RescaleIntercept) for value in (low, high))
    unit = _windowed(shown, header, low, high)
    unit = 1 - unit if header.PhotometricInterpretation == "MONOCHROME1" else unit
    unit = np.clip(unit, 0, 1).astype(np.float32)
    if "PixelPaddingValue" in header:
        ends = [int(header.PixelPaddingValue), int(getattr(header, "PixelPaddingRangeLimit", header.PixelPaddingValue))]
        unit[(values >= min(ends)) & (values <= max(ends))] = 0
    return unit


def _windowed(values: np.ndarray, header: Any, low: float, high: float) -> np.ndarray:
    """Values as a share of the window; `low` and `high`: the smallest and largest stored value, rescaled."""
    from pydicom.pixels.processing import apply_windowing

    if tables := getattr(header, "VOILUTSequence", None):
        return _looked_up(values, tables[0], "<u2" if header.file_meta.TransferSyntaxUID.is_little_endian else ">u2")
    if _has_window(header):
        return (apply_windowing(values, header) - low) / (high - low)
    low, high = sorted((low, high))
    return (values - low) / (high - low)


def _has_window(header: Any) -> bool:
    return "WindowCenter" in header and "WindowWidth" in header


def _looked_up(values: np.ndarray, table: Any, words: str) -> np.ndarray:
    """A VOI table's answer in [0, 1]. Not pydicom's own, which counts entries in the type of the answers."""
    count, first, bits = (int(value) for value in table.LUTDescriptor)
    data = table.LUTData
    entries = np.frombuffer(data, dtype=words) if isinstance(data, bytes) else np.asarray(data)
    places = np.clip(np.rint(values) - first, 0, (count or 65536) - 1).astype(np.int64)
    return entries[places] / (2**bits - 1)


def _colour(pixels: np.ndarray, header: Any) -> Pillow.Image | np.ndarray:
    from pydicom.pixels.processing import apply_color_lut

    bits = header.BitsStored
    if header.PhotometricInterpretation == _PALETTE:
        pixels = apply_color_lut(pixels, header)[..., :3]
        bits = 8 * pixels.dtype.itemsize
    if pixels.dtype == np.uint8 and bits == 8:
        return Pillow.fromarray(np.ascontiguousarray(pixels))
    return pixels.astype(np.float32) / np.float32(2**bits - 1)
