"""Carries out one small job of every kind into the current folder; run as a script, with `MACHINE` as environment.

The built-in model and drawn images, so that nothing but the code decides what is written.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import platform
import sys
from pathlib import Path
from typing import Any

# Kernels that every x86-64 with AVX2 computes alike, whatever else it could do, on one thread.
MACHINE = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "AVX2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR",
    "PYTHONHASHSEED": "0",
}
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scipy", "pillow", "matplotlib", "jinja2", "pyyaml")

COMMON = ["--threads", "1", "--seed", "3"]
QUICK = {"shots": 2, "epochs": 2, "batch": 8}
TWO = {
    "data": "phantom", "task": "phantom", "limit": 4, "fit_data": "phantom:32", "sigmas": [0.1, 0.25], "n": 96,
    "selection": 16, "look": 16, "batch": 16, "threads": 1, "seed": 3, "alpha": 0.01, "radii": [0.0, 0.05, 0.1, 0.25],
    "defences": [
        {"name": "zero-shot"},
        {"name": "promptsmooth", "label": "few-shot", "settings": {"mode": "few-shot", **QUICK}},
        {"name": "promptsmooth", "label": "tuned", "settings": {"mode": "zero-shot", "draws": 4, "tune_lr": 0.02}},
    ],
}  # fmt: skip
FINDINGS = TWO | {
    "data": "paints.npz", "task": "paints.yaml", "limit": 3, "fit_data": None, "sigmas": [0.25], "alpha": 0.03,
    "defences": [
        {"name": "zero-shot"},
        {"name": "coop", "settings": QUICK},
    ],
}  # fmt: skip
FIXED = TWO | {"limit": 2, "sigmas": [0.25], "stopping": "fixed", "lean": False, "defences": ["zero-shot", "vote"]}
PGD = ["--attack", "pgd", "--set", "pgd.steps=20", "--eps", "1/255", "--eps", "4/255"]
DATA = ["--data", "phantom", "--task", "phantom", "--fit-data", "phantom:32"]
TUNED = ["--defence", "zero-shot", "--defence", "promptsmooth:zero-shot", "--sigma", "0.25"]

AUDIT = {"attacks": 1, "redraws": 1, "border": 1, "steps": 2, "draws": 8, "judge": 128, "reference": 256, "tries": 10}

COMMANDS: dict[str, list[str] | dict[str, int]] = {
    "certify": ["run", "two.yaml", "--out", "two"],
    "findings": ["run", "findings.yaml", "--out", "findings"],
    "fixed": ["run", "fixed.yaml", "--out", "fixed"],
    "attack": ["attack", *DATA, *COMMON, *PGD, "--batch", "1", "--limit", "2", *TUNED, "--out", "attack"],
    "attack a run": [
        "attack", "--attack", "apgd-ce", "--set", "steps=20", "--eps", "2/255", "--batch", "2", "--out", "fixed",
    ],
    "audit": AUDIT,
    "evaluate": [
        "evaluate", *DATA, *COMMON, *PGD[:6], "--limit", "2", "--n", "64", "--n0", "8", "--batch", "16",
        "--defence", "zero-shot", "--out", "evaluate",
    ],
    "probe": [
        "probe", *DATA, *COMMON, "--limit", "3", "--batch", "2", *PGD[:6],
        "--recipe", "linear-probe", "--recipe", "ran",
        "--set", "epochs=2", "--set", "batch=8", "--set", "ran.attack_steps=1", "--out", "probe",
    ],
    "vqa": [
        "vqa", "--data", "pictures", "--questions", "questions.json", *COMMON, "--batch", "5", "--eps", "4/255",
        "--attack-steps", "2", "--recipe", "linear", "--recipe", "ran", "--set", "epochs=2", "--set", "width=16",
        "--set", "batch=8", "--set", "ran.attack_steps=1", "--out", "vqa",
    ],
    "poison": [
        "poison", "--data", "captioned", "--share", "50%", "--steps", "3", *COMMON, "--out", "poison",
    ],
    "check": ["data", "check", "pictures/labelled", "--task", "phantom", "--json"],
    "fit": [
        "fit", "--data", "phantom:64", "--task", "phantom", *COMMON, "--defence", "pool", "--set", "steps=2",
        "--out", "fit",
    ],
    "predict": ["predict", "pictures/0.png", "--task", "phantom", "--sigma", "0.25", "--n", "64", "--json"],
}  # fmt: skip


def write_inputs() -> None:
    """Experiments, an archive with findings, pictures with captions and questions."""
    import numpy as np
    import torch
    import yaml
    from PIL import Image

    from medrobust.data import load_task, open_dataset
    from medrobust.models import load

    for name, values in (("two", TWO), ("findings", FINDINGS), ("fixed", FIXED)):
        Path(f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    paints = {"name": "paints", "title": "Paints", "templates": ["a photo of {}.", "an image that shows {}."]}
    paints["findings"] = [{"name": f"{colour} paint"} for colour in ("red", "green", "blue")]
    Path("paints.yaml").write_text(yaml.safe_dump(paints), encoding="utf-8")
    arrays, numbers = {}, np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 8)):
        bits = (np.arange(count)[:, None] >> np.arange(3)) & 1
        grain = numbers.integers(0, 26, (count, 16, 16, 3))
        arrays |= {f"{split}_images": (64 + grain + 128 * bits[:, None, None]).astype(np.uint8)}
        arrays |= {f"{split}_labels": bits}
    np.savez("paints.npz", **arrays)
    task = load_task("phantom")
    data = open_dataset("phantom", task, preprocess=load("builtin").preprocess, split="train", limit=16)
    captions, questions = [], []
    Path("pictures").mkdir()
    for number, label in enumerate(data.targets):
        pixels = (data.read(number) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        split, name = ("train", "test")[number % 2], task.classes[label]
        labelled = Path("pictures/labelled", split, name)
        labelled.mkdir(parents=True, exist_ok=True)
        Path("captioned/images").mkdir(parents=True, exist_ok=True)
        for folder in (Path("pictures"), Path("captioned/images"), labelled):
            Image.fromarray(pixels).save(folder / f"{number}.png")
        captions.append({"id": str(number), "caption": f"smear with a large {name} on the left side, no fracture"})
        about = {"img_name": f"{number}.png", "split": split, "q_lang": "en"}
        questions.append(about | {"question": "which cell is shown?", "answer": name, "answer_type": "OPEN"})
        told = "yes" if label < 3 else "no"
        questions.append(about | {"question": "is it small?", "answer": told, "answer_type": "CLOSED"})
    Path("captioned/captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in captions), encoding="utf-8")
    rows = [row | {"qid": number} for number, row in enumerate(questions)]
    Path("questions.json").write_text(json.dumps(rows), encoding="utf-8")


def carry_out() -> None:
    """Every command, its standard output beside the folders that it writes."""
    import torch

    from medrobust.cli import app
    from medrobust.jobs.audit import audit
    from medrobust.jobs.parts import AuditSettings

    torch.set_num_threads(1)
    write_inputs()
    Path("said").mkdir()
    for name, words in COMMANDS.items():
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = (
                app(words, standalone_mode=False)
                if isinstance(words, list)
                else audit(Path("two"), AuditSettings(**words))
            )
        if isinstance(code, int) and code > (name == "check"):  # which ends with 1 where it finds something
            sys.exit(f"{name} ended with {code}")
        Path("said", f"{name}.txt").write_text(said.getvalue(), encoding="utf-8")


def versions() -> dict[str, str]:
    """Of everything but our own code that decides a byte."""
    return {name: importlib.metadata.version(name) for name in PACKAGES} | {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def digests(folder: Path) -> dict[str, str]:
    """Of every file that the commands wrote: SHA-256 after versions are masked; states by what they hold."""
    parts = [part for part in sorted(folder.iterdir()) if part.is_dir() and part.name not in ("pictures", "captioned")]
    paths = [path for part in parts for path in sorted(part.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): _digest(path) for path in paths}


def _digest(path: Path) -> str:
    if path.suffix == ".safetensors":
        return hashlib.sha256(_held(path)).hexdigest()
    content = path.read_bytes()
    if path.suffix != ".png":
        content = masked(content.decode()).encode()
    return hashlib.sha256(content).hexdigest()


def _held(path: Path) -> bytes:
    from medrobust.defences.state import load_state

    state, header = load_state(path)
    tensors = [(name, str(value.dtype), value.shape, value.numpy().tobytes()) for name, value in sorted(state.items())]
    return repr((tensors, sorted(header.model_dump(exclude={"medrobust"}).items()))).encode()


def masked(text: str) -> str:
    """The text without the versions of this machine."""
    from medrobust import __version__

    said: dict[str, Any] = {"torch": importlib.metadata.version("torch"), "python": platform.python_version()}
    said |= {name: importlib.metadata.version(name) for name in ("transformers", "numpy")}
    for name, version in (("medrobust", __version__), *said.items()):
        text = text.replace(version, f"<{name}>")
    return text


if __name__ == "__main__":
    carry_out()
