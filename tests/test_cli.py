"""The command line as a user meets it: what it prints, and how it ends when the input is bad."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from medrobust.cli import app
from medrobust.jobs.experiment import Choice, Experiment
from medrobust.jobs.parts import CertifySettings
from medrobust.settings import to_yaml

Invoke = Callable[..., Result]
QUICK = ["--stopping", "fixed", "--n", "16", "--n0", "8", "--batch", "8", "--threads", "1"]


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> list[str]:
    return ["--model", str(checkpoint)]


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(result: Result, *parts: str, code: int = 2) -> None:
    """One sentence on stderr, the exit code, and no traceback."""
    assert result.exit_code == code, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("medrobust:")]
    assert len(lines) == 1, result.stderr
    for part in parts:
        assert part in lines[0]


def certify(out: Path, model: list[str], data: object, *words: object) -> Result:
    return invoke("certify", *model, "--data", data, "--defence", "zero-shot", "--out", out, *QUICK, *words)


# -- what works


def test_certify_then_report(tmp_path: Path, model: list[str], picture_folder: Path, task_file: Path) -> None:
    done = certify(tmp_path / "run", model, picture_folder, "--task", task_file, "--limit", 3, "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["certified_accuracy"]["zero-shot"]["0"]["total"] == 3
    assert "let no radius exceed" in done.stderr
    page = (tmp_path / "run" / "report.html").read_bytes()
    (tmp_path / "run" / "report.html").unlink()
    again = invoke("report", tmp_path / "run", "--json")
    assert json.loads(again.stdout) == summary
    assert (tmp_path / "run" / "report.html").read_bytes() == page


def test_fit_certify_predict(tmp_path: Path, model: list[str], picture_folder: Path, task_file: Path) -> None:
    common = [*model, "--task", task_file]
    fitted = invoke("fit", *common, "--data", picture_folder, "--defence", "promptsmooth:few-shot", "--out", tmp_path,
                    "--set", "shots=2", "--set", "epochs=2", "--json")  # fmt: skip
    assert fitted.exit_code == 0, fitted.output
    state = tmp_path / "state.safetensors"
    assert json.loads(fitted.stdout)["settings"]["shots"] == 2
    combined = f"promptsmooth:combined={state}"
    done = invoke("certify", *common, "--data", picture_folder, "--defence", combined, "--limit", 3,
                  "--out", tmp_path / "run", *QUICK, "--json")  # fmt: skip
    assert json.loads(done.stdout)["scope"] == {"promptsmooth:combined": "tuned on input"}
    image = next(picture_folder.rglob("*.png"))
    said = invoke("predict", image, *model, "--task", task_file, "--defence", f"promptsmooth={state}", "--sigma", 0.25,
                  "--n", 16, "--json")  # fmt: skip
    found = json.loads(said.stdout)
    assert found["notice"] == "not a medical device"
    (item,) = found["images"]
    assert sum(item["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert item["certificate"]["scope"] == "model"
    assert item["certificate"]["trials"] == 16
    plain = invoke("predict", image, *model, "--task", task_file)
    assert f"{image}: " in plain.stdout
    refused(invoke("fit", *common, "--data", picture_folder, "--defence", "coop", "--out", tmp_path), "--overwrite")
    refused(
        invoke("fit", *common, "--data", picture_folder, "--defence", "coop", "--out", tmp_path / "b", "--base", state,
               "--set", "epoch=1"),
        "no setting 'epoch'", "did you mean 'epochs'",
    )  # fmt: skip


def test_two_states_of_one_defence_are_told_apart(
    tmp_path: Path, model: list[str], picture_folder: Path, task_file: Path
) -> None:
    common = [*model, "--task", task_file, "--data", picture_folder]
    words = []
    for name in ("one", "two"):
        done = invoke("fit", *common, "--defence", "coop", "--out", tmp_path / name, "--set", "epochs=1", "--set",
                      "shots=1", "--seed", len(name))  # fmt: skip
        assert done.exit_code == 0, done.output
        words += ["--defence", f"coop={tmp_path / name / 'state.safetensors'}"]
    done = invoke("certify", *common, *words, "--limit", 3, "--out", tmp_path / "run", *QUICK, "--json")
    assert list(json.loads(done.stdout)["scope"]) == ["coop (one)", "coop (two)"]


def test_run_from_yaml(tmp_path: Path, checkpoint: Path, picture_folder: Path, task_file: Path) -> None:
    experiment = Experiment(model=str(checkpoint), data=str(picture_folder), task=str(task_file), limit=3,
                            defences=(Choice(defence="vote"),), certify=CertifySettings(draws=16, batch=8))  # fmt: skip
    (tmp_path / "e.yaml").write_text(to_yaml(experiment))
    done = invoke("run", tmp_path / "e.yaml", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "| vote | model |" in done.stdout
    assert "Not a medical device" in done.stdout


@pytest.mark.parametrize("name", ["models", "tasks", "defences"])
def test_lists(name: str) -> None:
    rows = json.loads(invoke(name, "--json").stdout)
    table = invoke(name).stdout
    assert rows
    assert all(row["name"] in table for row in rows)


def test_help_and_version_load_nothing_heavy() -> None:
    code = (
        "import sys; from medrobust.cli import app\n"
        "for words in (['--help'], ['certify', '--help'], ['--version']):\n"
        "    try: app(words)\n"
        "    except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "predict" in done.stdout


# -- what is refused


def test_empty_folder(tmp_path: Path, model: list[str], task_file: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(certify(tmp_path / "run", model, tmp_path / "empty", "--task", task_file), str(tmp_path / "empty"))


def test_one_corrupt_image_among_good_ones(
    tmp_path: Path, model: list[str], picture_folder: Path, task_file: Path
) -> None:
    import shutil

    folder = tmp_path / "pictures"
    shutil.copytree(picture_folder, folder)
    broken = folder / "test" / "red" / "0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    refused(certify(tmp_path / "run", model, folder, "--task", task_file), "0.png", "--skip-broken")
    assert not (tmp_path / "run" / "certified.jsonl").exists()
    done = certify(tmp_path / "run", model, folder, "--task", task_file, "--skip-broken", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["images"] == 8
    assert "test/red/0.png" in done.stderr


def archive(path: Path, labels: list[int]) -> Path:
    images = np.zeros((len(labels), 16, 16, 3), dtype=np.uint8)
    np.savez(path, test_images=images, test_labels=np.array(labels, dtype=np.uint8)[:, None])
    return path


def test_truncated_npz_and_labels_out_of_range(tmp_path: Path, model: list[str], task_file: Path) -> None:
    good = archive(tmp_path / "good.npz", [0, 1, 2])
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:500])
    refused(certify(tmp_path / "run", model, tmp_path / "cut.npz", "--task", task_file), "cut.npz")
    far = archive(tmp_path / "far.npz", [0, 1, 7])
    refused(certify(tmp_path / "run", model, far, "--task", task_file), "7", "red paint")


def test_a_class_that_the_task_does_not_have(
    tmp_path: Path, model: list[str], picture_folder: Path, task_file: Path
) -> None:
    values = yaml.safe_load(task_file.read_text())
    values["classes"] = values["classes"][:2]
    fewer = tmp_path / "fewer.yaml"
    fewer.write_text(yaml.safe_dump(values))
    refused(certify(tmp_path / "run", model, picture_folder, "--task", fewer), "blue", "red paint", "green paint")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--sigma", "0"], ["sigma is 0.0", "positive"]),
        (["--sigma", "-1"], ["sigma is -1.0"]),
        (["--sigma", "nan"], ["sigma is nan"]),
        (["--n", "9"], ["n = 9", "n >= 10"]),
        (["--alpha", "1"], ["alpha is 1.0"]),
        (["--n0", "0"], ["selection is 0"]),
        (["--limit", "0"], ["limit"]),
        (["--device", "toaster"], ["device 'toaster'"]),
        (["--task", "bloodmnst"], ["did you mean 'bloodmnist'"]),
        (["--defence", "promptsmoth"], ["did you mean 'promptsmooth'"]),
        (["--defence", "coop=none.safetensors"], ["no state file none.safetensors"]),
        (["--model", "no-such-folder"], ["nor a known model"]),
    ],
)
def test_settings_out_of_range(
    tmp_path: Path, model: list[str], picture_folder: Path, task_file: Path, words: list[str], parts: list[str]
) -> None:
    base = [] if words[0] == "--task" else ["--task", str(task_file)]
    refused(certify(tmp_path / "run", model, picture_folder, *base, *words), *parts)
    assert not (tmp_path / "run" / "certified.jsonl").exists()


def test_nan_in_the_weights(tmp_path: Path, checkpoint: Path, picture_folder: Path, task_file: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused(
        certify(tmp_path / "run", ["--model", str(folder)], picture_folder, "--task", task_file),
        "visual_projection.weight", "NaN",
    )  # fmt: skip


def test_a_state_of_another_model(
    tmp_path: Path, model: list[str], checkpoint: Path, picture_folder: Path, task_file: Path
) -> None:
    import shutil

    invoke("fit", *model, "--task", task_file, "--data", picture_folder, "--defence", "coop", "--out", tmp_path,
           "--set", "epochs=1", "--set", "shots=1")  # fmt: skip
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    weights = load_file(other / "model.safetensors")
    save_file({key: value * 1.5 for key, value in weights.items()}, other / "model.safetensors", {"format": "pt"})
    state = tmp_path / "state.safetensors"
    refused(
        certify(tmp_path / "run", ["--model", str(other)], picture_folder, "--task", task_file,
                "--defence", f"coop={state}"),
        str(checkpoint), str(other), "pass --model",
    )  # fmt: skip


def test_an_unknown_key(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("certify: {sigmaz: [0.25]}\n")
    told = invoke("run", tmp_path / "e.yaml", "--out", tmp_path / "run")
    refused(told, "certify.sigmaz", "did you mean 'sigmas'")


def test_an_output_folder_that_cannot_be_written(
    tmp_path: Path, model: list[str], picture_folder: Path, task_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    refused(certify(tmp_path / "file", model, picture_folder, "--task", task_file), "cannot write", "file")

    def read_only(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr(Path, "replace", read_only)
    refused(certify(tmp_path / "run", model, picture_folder, "--task", task_file), "Permission denied")


def test_a_full_disk(
    tmp_path: Path, model: list[str], picture_folder: Path, task_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import medrobust.results.journal as journal

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as rows_alone:
        rows_alone.setattr(journal, "os", SimpleNamespace(**{**vars(os), "fsync": full}))
        result = certify(tmp_path / "run", model, picture_folder, "--task", task_file)
    refused(result, "the disk is full", "first 0 rows are safe", code=1)
    monkeypatch.setattr(os, "fsync", full)
    result = certify(tmp_path / "other", model, picture_folder, "--task", task_file)
    refused(result, "experiment.yaml: the disk is full; what was written before is safe", code=1)


def test_ctrl_c(
    tmp_path: Path, model: list[str], picture_folder: Path, task_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import medrobust.jobs.certify as module

    real, calls = module.certify_image, []

    def interrupted(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "certify_image", interrupted)
    result = certify(tmp_path / "run", model, picture_folder, "--task", task_file)
    refused(result, "interrupted", "safe", code=130)
    assert len((tmp_path / "run" / "certified.jsonl").read_text().splitlines()) == 2
    monkeypatch.undo()
    assert certify(tmp_path / "run", model, picture_folder, "--task", task_file).exit_code == 0


def test_a_broken_image_for_predict(tmp_path: Path, model: list[str], task_file: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"\x89PNG nothing")
    refused(invoke("predict", tmp_path / "x.png", *model, "--task", task_file), "x.png")
    refused(invoke("predict", tmp_path / "x.png", *model), "pass --task")


def test_predict_says_what_it_lacks(tmp_path: Path, model: list[str], picture_folder: Path, task_file: Path) -> None:
    image = next(picture_folder.rglob("*.png"))
    common = [image, *model, "--task", task_file]
    refused(invoke("predict", *common, "--defence", "pool"), "pool must learn before it can answer")
    refused(invoke("predict", *common, "--defence", "promptsmooth:zero-shot"), "pass --sigma")
    invoke("fit", *model, "--task", task_file, "--data", picture_folder, "--defence", "coop", "--out", tmp_path,
           "--set", "epochs=1", "--set", "shots=1")  # fmt: skip
    state = tmp_path / "state.safetensors"
    refused(invoke("predict", *common, "--defence", f"pool={state}"), "was learned by coop, asked for pool")


def test_predict_tunes_every_image_anew(model: list[str], picture_folder: Path, task_file: Path) -> None:
    images = sorted(picture_folder.rglob("*.png"))[:3]
    words = [*model, "--task", task_file, "--defence", "promptsmooth:zero-shot", "--sigma", 0.25, "--n", 16, "--json"]
    together = json.loads(invoke("predict", *images, *words).stdout)["images"]
    alone = json.loads(invoke("predict", images[2], *words).stdout)["images"]
    assert alone == together[2:]
    assert alone[0]["certificate"]["scope"] == "tuned on input"


def test_a_report_of_what_is_no_run(tmp_path: Path) -> None:
    refused(invoke("report", tmp_path), "is not a run folder")


def test_a_prompt_that_is_too_long(tmp_path: Path, model: list[str], picture_folder: Path, task_file: Path) -> None:
    values = yaml.safe_load(task_file.read_text())
    values["classes"][1]["name"] = "green " * 90
    long = tmp_path / "long.yaml"
    long.write_text(yaml.safe_dump(values))
    refused(certify(tmp_path / "run", model, picture_folder, "--task", long), "green green", "context")


def test_training_that_diverges(tmp_path: Path, model: list[str], picture_folder: Path, task_file: Path) -> None:
    where = ["--task", task_file, "--data", picture_folder, "--out", tmp_path]
    wild = ["--set", "lr=1e38", "--set", "epochs=5", "--set", "batch=3"]
    result = invoke("fit", *model, *where, "--defence", "coop", *wild)
    refused(result, "the loss became", code=1)
    assert not (tmp_path / "state.safetensors").exists()


def test_pretrain_makes_a_model_that_loads(tmp_path: Path, task_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [0, 1, 2] * 4
    images = np.zeros((len(labels), 16, 16, 3), dtype=np.uint8)
    images[np.arange(len(labels)), :, :, labels] = 200
    arrays = {f"{split}_{what}": value for split in ("train", "test")
              for what, value in (("images", images), ("labels", np.array(labels)))}  # fmt: skip
    np.savez(tmp_path / "colours.npz", **arrays)
    recipe = {
        "name": "tiny",
        "architecture": {"image_size": 16, "patch_size": 8, "vision_width": 32, "vision_layers": 1, "vision_heads": 1,
                         "text_width": 32, "text_layers": 1, "text_heads": 1, "projection": 16, "context_length": 77,
                         "vocabulary": 560},
        "sources": [{"data": str(tmp_path / "colours.npz"), "task": str(task_file), "share": 1.0}],
        "training": {"steps": 60, "batch": 12, "lr": 0.001, "weight_decay": 0.1, "warmup": 3, "average": 0.5},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    threads = torch.get_num_threads()
    done = invoke("pretrain", tmp_path / "recipe.yaml", "--out", tmp_path / "made", "--json")
    torch.set_num_threads(threads)
    assert done.exit_code == 0, done.output
    (score,) = json.loads(done.stdout)["zero_shot"].values()
    assert score["total"] == 12
    assert score["value"] == 1.0
    refused(invoke("pretrain", tmp_path / "recipe.yaml", "--out", tmp_path / "made"), "holds a model already")
    refused(invoke("pretrain", "nothing", "--out", tmp_path / "b"), "no recipe 'nothing'")
