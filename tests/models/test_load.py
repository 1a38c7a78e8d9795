"""Loading a model: from where, and one sentence for everything that can be wrong with it."""

import json
import re
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from medrobust.errors import ModelError
from medrobust.models import MODELS, load
from medrobust.models.clip import Clip
from medrobust.models.known import BY_HAND
from medrobust.types import Preprocess, VisionLanguageModel

Weights = dict[str, Tensor]
PROJECTION = "visual_projection.weight"
ON_THE_HUB = [name for name, entry in MODELS.items() if entry.format not in BY_HAND and entry.source != "embedded"]


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Path) -> Path:
    """A copy of the checkpoint, to be broken."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, and a failure that no `except` of a library hides where a socket is opened."""

    class NetworkUsedError(BaseException):
        pass

    def refuse(*_: object, **__: object) -> None:
        raise NetworkUsedError

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def rewrite(folder: Path, change: Callable[[Weights], Weights]) -> None:
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_is_loaded_frozen_and_says_what_it_is(tiny: Clip, checkpoint: Path) -> None:
    assert isinstance(tiny, VisionLanguageModel)
    assert tiny.name == str(checkpoint)
    assert tiny.licence == "not stated; see the model's own page"
    assert tiny.preprocess == Preprocess(16, 16, "bicubic", True)
    assert tiny.encode_image(torch.zeros(1, 3, 16, 16)).dtype == torch.float32
    assert len(tiny.sha256) == 64


def test_loading_twice_gives_the_same_features(checkpoint: Path, tiny: Clip) -> None:
    again, images = load(str(checkpoint)), torch.rand(2, 3, 16, 16)
    assert again.sha256 == tiny.sha256
    assert torch.equal(again.encode_image(images), tiny.encode_image(images))
    assert torch.equal(again.encode_text(["red"]), tiny.encode_text(["red"]))


def test_a_model_runs_in_the_dtype_asked_for_and_answers_in_float32(checkpoint: Path, tiny: Clip) -> None:
    half, images = load(str(checkpoint), dtype=torch.bfloat16), torch.rand(2, 3, 16, 16)
    assert next(half.vision.parameters()).dtype == torch.bfloat16
    assert half.encode_image(images).dtype == half.encode_text(["red"]).dtype == torch.float32
    torch.testing.assert_close(half.encode_image(images), tiny.encode_image(images), atol=0.1, rtol=0.05)


def with_nan(weights: Weights) -> Weights:
    weights[PROJECTION][0, 0] = float("nan")
    return weights


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (with_nan, rf"weight {PROJECTION} holds NaN or infinity"),
        (lambda w: {k: v for k, v in w.items() if k != PROJECTION}, rf"missing keys in its weights: {PROJECTION};"),
        (lambda w: w | {"extra.weight": torch.zeros(2)}, r"unexpected keys in its weights: extra.weight;"),
        (
            lambda w: w | {PROJECTION: torch.zeros(16, 31)},
            rf"mismatched keys .*: {PROJECTION} has shape \[16, 31\], not \[16, 32\];",
        ),
        (lambda w: w | {"logit_scale": torch.zeros(3)}, r"mismatched keys .*: logit_scale has shape \[3\], not \[\];"),
        (lambda w: {}, r"missing keys in its weights: .* and \d+ more; the checkpoint is not a CLIP"),
    ],
)
def test_weights_that_are_not_the_models_are_refused(folder: Path, change: Callable, sentence: str) -> None:
    rewrite(folder, change)
    with pytest.raises(ModelError, match=sentence):
        load(str(folder))


def test_a_truncated_checkpoint_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"is not a complete safetensors file"):
        load(str(folder))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("config.json", r"has no config.json; .* is not a checkpoint in the format of transformers"),
        ("preprocessor_config.json", r"has no preprocessor_config.json, so its resize and normalisation are unknown"),
        ("tokenizer.json", r"has no tokenizer.json and no vocab.json with merges.txt"),
        ("model.safetensors", r"holds neither model.safetensors nor pytorch_model.bin"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused(folder: Path, name: str, sentence: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=sentence):
        load(str(folder))


@pytest.mark.parametrize("family", ["blip", None, ["clip"]])
def test_another_family_is_refused(folder: Path, family: object) -> None:
    configure(folder, model_type=family)
    with pytest.raises(ModelError, match=rf"says model_type {re.escape(repr(family))}; of this format, clip and sig"):
        load(str(folder))


@pytest.mark.parametrize("text", ["{", "[]", "7"])
def test_a_configuration_that_is_no_object_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config.json is not a JSON object"):
        load(str(folder))


def test_a_crop_that_is_not_the_towers_size_is_refused(folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"crop_size": 24}))
    with pytest.raises(ModelError, match=r"crops to 24 px, the vision tower takes 16 px"):
        load(str(folder))


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    configure(folder, text_config=text | {"eos_token_id": 7})
    with pytest.raises(ModelError, match=r"its tokenizer ends a text with token \d+, its config expects 7"):
        load(str(folder))


def test_what_is_neither_folder_nor_name_is_refused_with_the_names() -> None:
    with pytest.raises(ModelError, match=r"'plib' is neither a folder nor a known model; pass one of builtin, plip, "):
        load("plib")
    with pytest.raises(ModelError, match=r"'./no/where' is neither a folder"):
        load("./no/where")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ON_THE_HUB)
def test_a_known_name_that_is_not_in_the_cache_is_never_downloaded(name: str) -> None:
    hub_id = MODELS[name].source
    with pytest.raises(ModelError) as caught:
        load(name)
    assert str(caught.value) == (
        f"{name} is not in the local cache and cannot be fetched offline; "
        f"pass --model {hub_id} once with a network to download it"
    )


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.format in BY_HAND])
def test_a_model_that_no_program_may_fetch_says_where_it_is(name: str) -> None:
    sentence = rf"^{name} cannot be fetched by a program; get it from .*(GitHub|hub).* and pass --model {name}=PATH$"
    with pytest.raises(ModelError, match=sentence):
        load(name)


def test_a_path_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match=r"^no/where.pt does not exist; pass --model chexzero=PATH with the file"):
        load("chexzero=no/where.pt")


def snapshot(checkpoint: Path, home: Path, commit: str) -> Path:
    """A folder as the hub's cache calls it."""
    return Path(shutil.copytree(checkpoint, home / "snapshots" / commit))


@pytest.mark.parametrize(
    ("spec", "revision", "commit", "fits"),
    [
        ("plip", None, "67ade53d11", True),
        ("plip", None, "11ade53d67", False),
        ("plip", "11ade53d67", "11ade53d67", True),  # asked for by the user
        ("vinid/plip", None, "11ade53d67", True),  # the name is pinned, the address is not
        ("clip-vit-base-patch32", None, "11ade53d67", True),
    ],
)
def test_a_name_stands_for_one_revision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path, spec: str, revision: str | None, commit: str,
    fits: bool,
) -> None:  # fmt: skip
    folder = snapshot(checkpoint, tmp_path, commit)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    if fits:
        assert load(spec, revision=revision).revision == commit
        return
    with pytest.raises(ModelError, match=rf"^plip stands for revision 67ade53d, the local cache holds {commit}; ask"):
        load(spec, revision=revision)


def test_a_pinned_hash_must_be_the_files(monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tiny: Clip) -> None:
    monkeypatch.setitem(MODELS, "plip", replace(MODELS["plip"], sha256=tiny.sha256))
    assert load(f"plip={checkpoint}").licence == MODELS["plip"].licence
    monkeypatch.setitem(MODELS, "plip", replace(MODELS["plip"], sha256="0" * 64))
    with pytest.raises(ModelError, match=rf"have sha256 {tiny.sha256}, plip has 0{{64}}; fetch them again$"):
        load(f"plip={checkpoint}")


@pytest.mark.usefixtures("no_network")
def test_a_hub_id_offline_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError) as caught:
        load("somebody/some-clip")
    assert str(caught.value) == (
        "somebody/some-clip is not in the local cache and cannot be fetched offline; "
        "connect once, or copy the checkpoint here and pass its folder"
    )


@pytest.mark.usefixtures("no_network")
def test_a_hub_id_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"^bad name/--x cannot be had from the hub: [^\n]+$"):
        load("bad name/--x")


@pytest.mark.parametrize(
    ("spec", "offline", "local"),
    [("plip", "", True), ("vinid/plip", "", False), ("vinid/plip", "1", True), ("vinid/plip", "TRUE", True)],
)
def test_only_a_hub_id_written_out_is_downloaded_and_never_code(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, spec: str, offline: str, local: bool
) -> None:
    asked: list[dict] = []

    def download(hub_id: str, **options: Any) -> str:
        asked.append({"hub_id": hub_id} | options)
        return str(checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    model = load(spec, revision="abc")
    (only,) = asked
    assert (only["hub_id"], only["revision"], only["local_files_only"]) == ("vinid/plip", "abc", local)
    assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in only["allow_patterns"])
    assert model.licence == MODELS["plip"].licence


def test_pickled_weights_are_fetched_only_where_there_are_no_others(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    asked: list[list[str]] = []

    def download(_: str, **options: Any) -> str:
        asked.append(options["allow_patterns"])
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    load("somebody/some-clip")
    assert ["pytorch_model*.bin" in patterns for patterns in asked] == [False, True]
