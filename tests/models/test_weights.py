"""Weights from disk: what is read, and what is refused in one sentence."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medrobust.errors import ModelError
from medrobust.models.weights import OPEN_CLIP, read_weights, sha256_of

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b.bias": torch.ones(2)}


def test_safetensors_are_read_with_the_hash_of_their_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    found = read_weights(tmp_path)
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[key], value) for key, value in TENSORS.items())
    assert found.sha256 == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()


def test_shards_are_read_together_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name, (key, value) in zip(names, TENSORS.items(), strict=True):
        save_file({key: value}, tmp_path / name)
    index = {"weight_map": {"b.bias": names[1], "a.weight": names[0]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = read_weights(tmp_path)
    assert found.tensors.keys() == TENSORS.keys()
    assert found.sha256 == sha256_of([tmp_path / name for name in names])
    (tmp_path / names[1]).unlink()
    with pytest.raises(
        ModelError, match=r"00002-of-00002.safetensors is named by the checkpoint's index and is missing"
    ):
        read_weights(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"weight_map": 3}'])
def test_a_broken_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=r"model.safetensors.index.json is not an index of shards"):
        read_weights(tmp_path)


def test_a_plain_pickle_is_read_and_safetensors_go_first(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    assert torch.equal(read_weights(tmp_path).tensors["a.weight"], TENSORS["a.weight"])
    save_file({"c": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert read_weights(tmp_path).tensors.keys() == {"c"}


def test_position_ids_are_no_weights(tmp_path: Path) -> None:
    old = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(TENSORS | old, tmp_path / "model.safetensors")
    assert read_weights(tmp_path).tensors.keys() == TENSORS.keys()


class Payload:
    def __reduce__(self) -> tuple:
        return (os.system, ("touch executed",))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": TENSORS["a.weight"], "b": Payload()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model.bin cannot be read as plain weights \(UnpicklingError\)"):
        read_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ModelError, match="refused"):
        read_weights(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"epoch": 3, "a": torch.zeros(1)}])
def test_a_pickle_of_more_than_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"holds more than named tensors; refused"):
        read_weights(tmp_path)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_torchscript_archive_is_refused_by_name(tmp_path: Path) -> None:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"model.pt is a TorchScript archive, which holds code; save its state_dict"):
        read_weights(tmp_path / "model.pt")


def test_one_file_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "best_64.pt")
    found = read_weights(tmp_path / "best_64.pt")
    assert found.files == (tmp_path / "best_64.pt",)
    assert torch.equal(found.tensors["b.bias"], TENSORS["b.bias"])


def test_weights_of_open_clip_have_names_of_their_own(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "open_clip_model.safetensors")
    assert read_weights(tmp_path, OPEN_CLIP).tensors.keys() == TENSORS.keys()
    with pytest.raises(ModelError, match=r"holds neither model.safetensors nor pytorch_model.bin"):
        read_weights(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:keep])
    with pytest.raises(ModelError, match=r"model.safetensors is not a complete safetensors file"):
        read_weights(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, value: float) -> None:
    broken = TENSORS["a.weight"].clone()
    broken[1, 2] = value
    save_file(TENSORS | {"a.weight": broken}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"weight a.weight holds NaN or infinity"):
        read_weights(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds neither model.safetensors nor pytorch_model.bin"):
        read_weights(tmp_path)
