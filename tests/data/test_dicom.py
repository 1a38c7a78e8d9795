import io
import logging
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dicoms import PATIENT, write_dicom
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from medrobust.data import dicom
from medrobust.data.dicom import is_dicom, read_dicom
from medrobust.data.image import open_image
from medrobust.data.sources import open_dataset
from medrobust.data.task import Task
from medrobust.errors import BrokenImageError
from medrobust.types import Preprocess

pydicom = pytest.importorskip("pydicom")
SAME = Preprocess(size=64, resize=64, crop=False, interpolation="nearest")
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)  # every value of 12 bits once
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
TASK = Task("toy", "Toy", ("benign", "malignant"), ((), ()), ("{}.",), "", "", "", "")


def shown(path: Path) -> np.ndarray:
    """The one grey channel of what a model gets to see."""
    image = open_image(path, SAME)
    assert image.dtype == torch.float32
    assert torch.equal(image[0], image[1])
    return image[0].numpy()


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-7)


# -- grey levels against the standard's formulas


def test_without_a_window_all_values_of_the_stored_bits_are_shown(tmp_path: Path) -> None:
    close(shown(write_dicom(tmp_path / "a.dcm", RAMP)), RAMP / 4095)
    assert len(np.unique(shown(tmp_path / "a.dcm"))) == 4096  # 8 bits are no step on the way
    close(shown(write_dicom(tmp_path / "b.dcm", RAMP, BitsStored=16, HighBit=15)), RAMP / 65535)


@pytest.mark.parametrize(("center", "width"), [(2048, 1024), (100, 400), (4000, 4096), (2048, 1)])
def test_a_window_is_the_line_of_the_standard(tmp_path: Path, center: int, width: int) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=center, WindowWidth=width)
    if width == 1:  # a step
        expected = (center - 0.5 < RAMP).astype(float)
    else:
        expected = np.clip((RAMP - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
    close(shown(path), expected)


def test_the_window_counts_rescaled_values_and_the_first_of_several_is_taken(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "a.dcm", RAMP, RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=[40, 500], WindowWidth=[400, 9]
    )
    close(shown(path), np.clip((RAMP * 2.0 - 1024 - 39.5) / 399 + 0.5, 0, 1))


def test_a_negative_slope_turns_the_grey_levels_around(tmp_path: Path) -> None:
    tags = {"RescaleSlope": -1, "RescaleIntercept": 4095}
    close(shown(write_dicom(tmp_path / "a.dcm", RAMP, **tags)), 1 - RAMP / 4095)
    path = write_dicom(tmp_path / "b.dcm", RAMP, WindowCenter=1000, WindowWidth=501, **tags)
    close(shown(path), np.clip((4095.0 - RAMP - 999.5) / 500 + 0.5, 0, 1))


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_other_windows(tmp_path: Path, function: str) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=2000, WindowWidth=500, VOILUTFunction=function)
    share = (RAMP - 2000.0) / 500
    close(shown(path), np.clip(share + 0.5, 0, 1) if function == "LINEAR_EXACT" else 1 / (1 + np.exp(-4 * share)))


def test_an_empty_window_is_none(tmp_path: Path) -> None:
    close(shown(write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter="", WindowWidth="")), RAMP / 4095)
    close(shown(write_dicom(tmp_path / "b.dcm", RAMP, WindowCenter=1, RescaleSlope="")), RAMP / 4095)


@pytest.mark.parametrize("tags", [{}, {"WindowCenter": 900, "WindowWidth": 700}])
def test_monochrome1_is_the_negative_of_monochrome2(tmp_path: Path, tags: dict[str, Any]) -> None:
    one = write_dicom(tmp_path / "1.dcm", RAMP, PhotometricInterpretation="MONOCHROME1", **tags)
    two = write_dicom(tmp_path / "2.dcm", RAMP, PhotometricInterpretation="MONOCHROME2", **tags)
    close(shown(one), 1 - shown(two))
    assert shown(one)[0, 0] == 1


def test_signed_pixels(tmp_path: Path) -> None:
    pixels = (RAMP.astype(np.int32) - 2048).astype(np.int16)
    path = write_dicom(tmp_path / "a.dcm", pixels, PixelRepresentation=1)
    close(shown(path), RAMP / 4095)
    path = write_dicom(tmp_path / "b.dcm", pixels, PixelRepresentation=1, WindowCenter=0, WindowWidth=1001)
    close(shown(path), np.clip((pixels + 0.5) / 1000 + 0.5, 0, 1))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("representation", [0, 1])
def test_padding_is_black_whatever_black_is(tmp_path: Path, photometric: str, representation: int) -> None:
    pixels = RAMP.astype(np.int16) if representation else RAMP
    if representation:
        pixels = pixels - 2048
    padding = int(pixels[2, 3])
    tags = {"PhotometricInterpretation": photometric, "PixelRepresentation": representation}
    plain = shown(write_dicom(tmp_path / "a.dcm", pixels, **tags))
    padded = shown(write_dicom(tmp_path / "b.dcm", pixels, PixelPaddingValue=padding, **tags))
    assert padded[2, 3] == 0 < plain[2, 3]
    assert (padded != plain).sum() == 1
    ranged = write_dicom(
        tmp_path / "c.dcm", pixels, PixelPaddingValue=padding, PixelPaddingRangeLimit=padding + 9, **tags
    )
    assert (shown(ranged) != plain).sum() == 10


@pytest.mark.parametrize(("bits", "first"), [(8, 0), (8, 1000), (12, 50), (16, 0)])
def test_a_voi_table_is_looked_up(tmp_path: Path, bits: int, first: int) -> None:
    entries = RNG.integers(0, 2**bits, 3000)
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [3000, first, bits], entries.astype("<u2").tobytes()
    table["LUTData"].VR = "OW"
    path = write_dicom(tmp_path / "a.dcm", RAMP, VOILUTSequence=[table], WindowCenter=5, WindowWidth=5)
    close(shown(path), entries[np.clip(RAMP.astype(int) - first, 0, 2999)] / (2**bits - 1))


def test_a_modality_table_goes_before_the_window(tmp_path: Path) -> None:
    entries = RNG.integers(0, 1024, 4096)
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [4096, 0, 16], "US", entries.tolist()
    table["LUTData"].VR = "US"
    path = write_dicom(tmp_path / "a.dcm", RAMP, ModalityLUTSequence=[table], WindowCenter=500, WindowWidth=301)
    close(shown(path), np.clip((entries[RAMP] - 499.5) / 300 + 0.5, 0, 1))


def test_a_multi_frame_file_shows_its_first_frame_under_its_own_window(tmp_path: Path) -> None:
    window, rescaling, frame, shared = (pydicom.Dataset() for _ in range(4))
    window.WindowCenter, window.WindowWidth = 100, 201
    rescaling.RescaleSlope, rescaling.RescaleIntercept = 1, -50
    frame.FrameVOILUTSequence = [window]
    shared.PixelValueTransformationSequence = [rescaling]
    path = write_dicom(
        tmp_path / "a.dcm", np.stack([RAMP, RAMP * 0, RAMP * 0]), NumberOfFrames=3,
        SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=[frame, pydicom.Dataset()],
    )  # fmt: skip
    close(shown(path), np.clip((RAMP - 50.0 - 99.5) / 200 + 0.5, 0, 1))
    assert read_dicom(path).frames == 3


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 16), st.booleans(), st.booleans(), st.sampled_from([-3.0, 0.5, 1.0]), st.integers(-2000, 2000),
    st.none() | st.tuples(st.integers(-5000, 70000), st.integers(1, 70000)),
)  # fmt: skip
def test_every_grey_file_stays_in_range(
    bits: int, signed: bool, negative: bool, slope: float, intercept: int, window: Any
) -> None:
    import tempfile

    low = -(2 ** (bits - 1)) if signed else 0
    pixels = np.linspace(low, low + 2**bits - 1, 64).round().astype(np.int16 if signed else np.uint16).reshape(8, 8)
    tags: dict[str, Any] = {"BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": int(signed)}
    tags |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
    tags |= {"PhotometricInterpretation": "MONOCHROME1" if negative else "MONOCHROME2"}
    if window is not None:
        tags |= {"WindowCenter": window[0], "WindowWidth": window[1]}
    with tempfile.TemporaryDirectory() as folder:
        found = np.asarray(read_dicom(write_dicom(Path(folder) / "a.dcm", pixels, **tags)).pixels)
    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 1
    steps = np.diff(found.reshape(-1))
    assert (steps <= 0).all() if negative != (slope < 0) else (steps >= 0).all()
    if window is None:
        assert (found.min(), found.max()) == (0, 1)


# -- colour


def test_colour_is_what_a_png_of_it_would_be(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RGB)
    Pillow.fromarray(RGB).save(tmp_path / "a.png")
    small = Preprocess(size=24, resize=24)
    assert torch.equal(open_image(path, small), open_image(tmp_path / "a.png", small))


def test_sixteen_bit_colour_keeps_its_depth(tmp_path: Path) -> None:
    deep = RNG.integers(0, 65536, (64, 64, 3), dtype=np.uint16)
    image = open_image(write_dicom(tmp_path / "a.dcm", deep, BitsStored=16, HighBit=15), SAME)
    close(image.permute(1, 2, 0).numpy(), deep / 65535)


def test_ybr_becomes_rgb(tmp_path: Path) -> None:
    ybr = np.empty((64, 64, 3), dtype=np.uint8)
    ybr[...] = (76, 85, 255)  # red, ITU-R BT.601
    image = open_image(write_dicom(tmp_path / "a.dcm", ybr, PhotometricInterpretation="YBR_FULL"), SAME)
    torch.testing.assert_close(image[:, 0, 0], torch.tensor([1.0, 0, 0]), rtol=0, atol=2 / 255)


def test_palettes_show_their_colours(tmp_path: Path) -> None:
    levels = RNG.integers(0, 65536, (3, 256)).astype("<u2")
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, row in zip(("Red", "Green", "Blue"), levels, strict=True):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = row.tobytes()
    pixels = (RAMP % 256).astype(np.uint8)
    image = open_image(write_dicom(tmp_path / "a.dcm", pixels, **tags), SAME)
    close(image.numpy(), levels[:, pixels] / 65535)


# -- which files


def test_dicom_is_told_by_suffix_or_by_its_first_bytes(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    for name in ("IM0001", "1.2.840.10008.5", "b.DICOM"):
        (tmp_path / name).write_bytes(path.read_bytes())
        assert is_dicom(tmp_path / name)
        assert np.array_equal(shown(tmp_path / name), shown(path))
    Pillow.fromarray(RGB).save(tmp_path / "c.png")
    assert not is_dicom(tmp_path / "c.png")


def test_folders_and_manifests_find_dicom(tmp_path: Path) -> None:
    for name in ("benign/a.dcm", "benign/b.DICOM", "malignant/c.dcm"):
        write_dicom(tmp_path / "scans" / name, RAMP)
    data = open_dataset(tmp_path / "scans", TASK, preprocess=SAME)
    assert data.ids == ("benign/a.dcm", "malignant/c.dcm", "benign/b.DICOM")
    write_dicom(tmp_path / "scans" / "1.2.3", RAMP)
    (tmp_path / "scans" / "list.csv").write_text("path,label\n1.2.3,benign\nmalignant/c.dcm,malignant\n")
    assert open_dataset(tmp_path / "scans" / "list.csv", TASK, preprocess=SAME).ids == ("1.2.3", "malignant/c.dcm")


# -- what cannot be read


def changed(path: Path, change: Callable[[Any], None]) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def test_broken_files_are_named_with_the_reason(tmp_path: Path) -> None:
    good = write_dicom(tmp_path / "good.dcm", RAMP).read_bytes()
    cases: dict[str, tuple[bytes, str]] = {
        "empty.dcm": (b"", "empty file"),
        "text.dcm": (b"no image" * 99, "is not a DICOM file: the letters DICM are missing"),
        "cut.dcm": (good[:-100], "is cut off: 8092 of 8192 bytes of its first frame"),
        "header.dcm": (good[: good.index(b"\xe0\x7f\x10\x00")], "has no pixel data"),
        "begin.dcm": (good[:140], "names no transfer syntax|damaged"),
        "rows.dcm": (good.replace(b"\x28\x00\x10\x00US\x02\x00\x40", b"\x28\x00\x10\x00US\x02\x00\xff"), "is cut off"),
        "bits.dcm": (
            good.replace(b"\x28\x00\x01\x01US\x02\x00\x0c", b"\x28\x00\x01\x01US\x02\x00\xc8"),
            "cannot be dec",
        ),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BrokenImageError, match=reason) as raised:
            open_image(tmp_path / name, SAME)
        assert str(tmp_path / name) in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("tags", "sentence"),
    [
        ({"WindowCenter": 5, "WindowWidth": 0}, "window or table of values that makes no sense"),
        ({"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "SMITH"}, "that makes no sense"),
        ({"PhotometricInterpretation": "SMITH"}, "another photometric interpretation than MONOCHROME1"),
    ],
)
def test_values_without_sense_are_refused_and_not_quoted(tmp_path: Path, tags: dict[str, Any], sentence: str) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, **tags)
    with pytest.raises(BrokenImageError, match=sentence) as raised:
        open_image(path, SAME)
    assert "SMITH" not in str(raised.value)


@pytest.mark.parametrize(
    ("syntax", "sentence"),
    [
        ("1.2.840.10008.1.2.4.80", r"JPEG-LS Lossless.*pip install pylibjpeg pylibjpeg-libjpeg \(or python-gdcm\)"),
        ("1.2.840.10008.1.2.4.70", "JPEG Lossless.*pip install pylibjpeg pylibjpeg-libjpeg"),
        ("1.2.840.10008.1.2.4.201", "JPEG 2000.*pip install pylibjpeg pylibjpeg-openjpeg"),
        ("1.2.840.10008.1.2.4.102", "MPEG-4.*not read"),
        ("1.2.840.10008.1.2.1.99", "Deflated.*not read; store it uncompressed"),
        ("1.2.3.4", "names no transfer syntax that is known"),
    ],
)
def test_a_missing_decoder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str, sentence: str
) -> None:
    from pydicom.pixels.decoders import base

    monkeypatch.setattr(base.Decoder, "is_available", property(lambda self: False))
    path = write_dicom(tmp_path / "a.dcm", RAMP, syntax=syntax)
    with pytest.raises(BrokenImageError, match=sentence):
        open_image(path, SAME)


def test_what_pillow_cannot_decode_names_the_package_too(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, syntax="1.2.840.10008.1.2.4.51")  # 12 bits of JPEG Extended
    with pytest.raises(BrokenImageError, match=r"damaged, or of a kind of JPEG Extended .*pylibjpeg-libjpeg"):
        open_image(path, SAME)


def test_compressed_pixels_are_read(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=2000, WindowWidth=900)
    before = shown(path)
    changed(path, lambda dataset: dataset.compress(pydicom.uid.RLELossless))
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == pydicom.uid.RLELossless
    assert np.array_equal(shown(path), before)
    (tmp_path / "cut.dcm").write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(BrokenImageError, match="cut off"):
        open_image(tmp_path / "cut.dcm", SAME)


def test_a_hostile_size_is_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, Rows=60000, Columns=60000)
    monkeypatch.setattr("pydicom.pixels.utils.pixel_array", lambda *args, **kwargs: pytest.fail("decoded"))
    with pytest.raises(BrokenImageError, match=r"a\.dcm has 60000 x 60000 pixels"):
        open_image(path, SAME)


def test_a_deflated_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, syntax="1.2.840.10008.1.2.1.99")
    monkeypatch.setattr(zlib, "decompress", lambda *args, **kwargs: pytest.fail("inflated"))
    with pytest.raises(BrokenImageError, match="Deflated"):
        open_image(path, SAME)


def test_without_pydicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(BrokenImageError, match=r'pip install "medrobust\[dicom\]"'):
        open_image(path, SAME)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1100), st.integers(1, 255))
def test_a_flipped_byte_is_read_or_refused_without_a_word_about_the_patient(place: int, flip: int) -> None:
    import tempfile

    file = io.BytesIO()
    write_dicom(file, RAMP, WindowCenter=5, WindowWidth=9, **PATIENT)
    content = bytearray(file.getvalue())
    content[place] ^= flip
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        path = Path(folder) / "a.dcm"
        path.write_bytes(bytes(content))
        said = ""
        try:
            open_image(path, SAME)
        except BrokenImageError as error:
            said = str(error)
    assert not any(word in said for word in PATIENT.values())


def test_a_number_that_is_none_is_not_quoted(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, NumberOfFrames=1234)
    path.write_bytes(path.read_bytes().replace(b"IS\x04\x001234", b"IS\x04\x00Zimm"))
    with pytest.raises(BrokenImageError, match="is a damaged DICOM file; export it again") as raised:
        open_image(path, SAME)
    assert "Zimm" not in str(raised.value)
    assert raised.value.__cause__ is not None
    assert raised.value.__cause__.__cause__ is None
    assert raised.value.__cause__.__suppress_context__


def test_pydicom_is_silent_also_among_threads(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, Rows=63, **PATIENT)
    with pytest.warns(UserWarning, match="longer than expected|padding"):  # what pydicom has to say about it
        _ = pydicom.dcmread(path).pixel_array
    assert "pydicom" in {record.name for record in caplog.records}
    caplog.clear()
    recwarn.clear()
    before = warnings.filters[:]
    with caplog.at_level(logging.DEBUG), ThreadPoolExecutor(4) as threads:
        assert len(list(threads.map(lambda _: open_image(path, SAME), range(12)))) == 12
    assert warnings.filters == before
    assert logging.getLogger("pydicom").propagate
    assert not recwarn.list
    assert not caplog.records


def test_files_are_read_one_after_another_because_filters_of_warnings_are_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    inside: list[int] = []
    together: list[int] = []
    stored = dicom._stored

    def slow(header: Any) -> np.ndarray:
        inside.append(1)
        time.sleep(0.02)
        together.append(len(inside))
        inside.pop()
        return stored(header)

    monkeypatch.setattr(dicom, "_stored", slow)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: open_image(path, SAME), range(6)))
    assert together == [1] * 6
