"""Weights from disk: safetensors first, pickles only through torch's safe reader, never anything else."""

import hashlib
import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medrobust.errors import ModelError


@dataclass(frozen=True)
class Weights:
    """Named tensors, and the hash of the files they came from."""

    tensors: dict[str, Tensor]
    sha256: str
    files: tuple[Path, ...]


# of a whole file, and of an index of shards; the first that is there is read
TRANSFORMERS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
OPEN_CLIP = (
    ("open_clip_model.safetensors", "open_clip_model.safetensors.index.json"),
    ("open_clip_pytorch_model.bin", "open_clip_pytorch_model.bin.index.json"),
)


def read_weights(path: Path, names: tuple[tuple[str, str], ...] = TRANSFORMERS) -> Weights:
    """The weights of one file, or of a checkpoint folder: the first of `names` that is there, whole or in shards.

    Old checkpoints carry `position_ids`, which is not a weight and is dropped.
    Raises ModelError for none, unreadable or non-finite ones.
    """
    files = (path,) if path.is_file() else _files(path, names)
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _read(file)
    tensors = {key: value for key, value in tensors.items() if not key.endswith("position_ids")}
    for key, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"{path}: weight {key} holds NaN or infinity; the checkpoint is broken")
    return Weights(tensors, sha256_of(files), files)


def sha256_of(files: Iterable[Path]) -> str:
    """One hash over the bytes of several files."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _files(folder: Path, names: tuple[tuple[str, str], ...]) -> tuple[Path, ...]:
    for single, index in names:
        if (folder / single).is_file():
            return (folder / single,)
        if (folder / index).is_file():
            return tuple(folder / shard for shard in _shards(folder / index))
    raise ModelError(f"{folder} holds neither {names[0][0]} nor {names[1][0]}")


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{index} is not an index of shards: {type(error).__name__} {error}") from error


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise ModelError(f"{file} is named by the checkpoint's index and is missing")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        if _is_torchscript(file):
            raise ModelError(f"{file} is a TorchScript archive, which holds code; save its state_dict() and pass that")
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except SafetensorError as error:
        raise ModelError(f"{file} is not a complete safetensors file: {error}") from error
    except Exception as error:
        raise ModelError(f"{file} cannot be read as plain weights ({type(error).__name__}); refused") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ModelError(f"{file} holds more than named tensors; refused")
    return loaded


def _is_torchscript(file: Path) -> bool:
    """Both kinds of file are zip archives; only TorchScript's keep constants beside the tensors."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
