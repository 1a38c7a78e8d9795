"""The way of someone with a folder of DICOM files and a list of labels, word for word, and what must not leak on it."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from dicoms import PATIENT, write_dicom
from typer.testing import CliRunner, Result

from medrobust.cli import app

pytest.importorskip("pydicom")

TASK = ["--task", "pneumoniamnist"]
QUICK = ["--n", "32", "--n0", "8", "--stopping", "fixed", "--batch", "8", "--threads", "1"]


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """16 chest-like films of 12 bits, half of them MONOCHROME1, each with a patient, and the list of their labels."""
    generator = np.random.default_rng(0)
    rows = ["path,label,split"]
    side = np.linspace(-1, 1, 80)
    for number in range(16):
        label = ("normal", "pneumonia")[number % 2]
        lungs = np.exp(-((np.abs(side[None]) - 0.45) ** 2) * 18 - side[:, None] ** 2 * 2)
        haze = 0.5 * (label == "pneumonia") * lungs
        film = np.clip(0.8 - 0.6 * lungs + haze + generator.normal(0, 0.05, (80, 80)), 0, 1)
        pixels = (film * 4095).astype(np.uint16)
        tags = {"PhotometricInterpretation": "MONOCHROME2", "WindowCenter": 2048, "WindowWidth": 3000, **PATIENT}
        if number % 4 > 1:
            pixels, tags = 4095 - pixels, tags | {"PhotometricInterpretation": "MONOCHROME1"}
        write_dicom(tmp_path / "hospital" / "films" / f"{number:02d}.dcm", pixels, **tags)
        rows.append(f"films/{number:02d}.dcm,{label},{'train' if number < 8 else 'test'}")
    (tmp_path / "hospital" / "list.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "hospital"


def said(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_from_a_folder_of_dicom_files_to_a_report(
    hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(hospital)
    caplog.set_level(logging.DEBUG)
    checked = said("data", "check", "list.csv", *TASK, "--json")
    assert checked.exit_code == 0, checked.output
    told = json.loads(checked.stdout)
    assert told["kinds"] == {"DICOM MONOCHROME2, 12 bits": 8, "DICOM MONOCHROME1, 12 bits": 8}
    assert told["splits"]["test"]["classes"] == {"normal": 4, "pneumonia": 4}

    fitted = said("fit", "--data", "list.csv", *TASK, "--defence", "promptsmooth", "--set", "shots=2", "--set",
                  "epochs=1", "--threads", "1", "--out", "runs/few")  # fmt: skip
    assert fitted.exit_code == 0, fitted.output
    certified = said("certify", "--data", "list.csv", *TASK, "--defence", "zero-shot", "--defence",
                     "promptsmooth=runs/few/state.safetensors", *QUICK, "--json",
                     "--out", "runs/certified")  # fmt: skip
    assert certified.exit_code == 0, certified.output
    summary = json.loads(certified.stdout)
    assert {name: curve["0"]["total"] for name, curve in summary["certified_accuracy"].items()} == {
        "zero-shot": 8, "promptsmooth:few-shot": 8
    }  # fmt: skip
    rows = [json.loads(line) for line in Path("runs/certified/certified.jsonl").read_text().splitlines()]
    assert {row["id"] for row in rows if "id" in row} == {f"films/{number:02d}.dcm" for number in range(8, 16)}
    reported = said("report", "runs/certified")
    assert reported.exit_code == 0, reported.output
    answered = said("predict", "films/08.dcm", *TASK)
    assert answered.exit_code == 0, answered.output

    # and where something is wrong
    content = Path("films/09.dcm").read_bytes()
    Path("films/09.dcm").write_bytes(content[:-500])
    for words in (["certify", "--defence", "zero-shot", *QUICK, "--out", "runs/broken"], ["fit", "--defence", "coop",
                  "--split", "test", "--out", "runs/unfit"]):  # fmt: skip
        refused = said(words[0], "--data", "list.csv", *TASK, *words[1:])
        assert refused.exit_code == 2
        assert "09.dcm is cut off" in refused.stderr
        assert_silent(refused.output)
    refused = said("predict", "films/09.dcm", *TASK)
    assert refused.exit_code == 2
    assert said("data", "check", "list.csv", *TASK).exit_code == 1

    for result in (checked, fitted, certified, reported, answered, refused):
        assert_silent(result.output)
    assert_silent(caplog.text)
    written = [path for path in (hospital / "runs").rglob("*") if path.is_file()]
    assert len(written) > 8
    for path in written:
        assert_silent(path.read_bytes().decode("latin-1"))


def assert_silent(text: str) -> None:
    """No word of the patient's tags."""
    for word in {part for value in PATIENT.values() for part in (value, *value.replace("^", " ").split())}:
        assert word not in text
