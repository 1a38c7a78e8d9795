"""Models: `load` reads one by a name, a hub id, a local folder, or a name with the path of its file."""

from collections.abc import Callable
from pathlib import Path

import torch

from medrobust.errors import ModelError
from medrobust.models.clip import Clip, ModelSource, load_clip
from medrobust.models.conch import load_conch
from medrobust.models.inputs import read_json
from medrobust.models.known import MODELS, Entry
from medrobust.models.locate import BUILTIN, LocatedModel, find
from medrobust.models.medclip import load_medclip
from medrobust.models.openai import load_chexzero
from medrobust.models.openclip import CONFIG, load_open_clip
from medrobust.models.siglip import load_siglip
from medrobust.models.weights import OPEN_CLIP, TRANSFORMERS, Weights, read_weights

__all__ = ["BUILTIN", "MODELS", "Entry", "load", "locate"]

Build = Callable[[ModelSource], Clip]
FAMILIES: dict[str, Build] = {"clip": load_clip, "siglip": load_siglip}  # of config.json's model_type
NAMED: dict[str, Build] = {"openai": load_chexzero, "medclip": load_medclip, "conch": load_conch}


def load(
    spec: str,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
) -> Clip:
    """A frozen model in evaluation mode.

    `spec`: a name from `MODELS`, a hub id (`owner/name`), a local folder in the format of transformers or of open_clip,
    or `NAME=PATH`: a file or folder that is to be read as the model of that name. Only a hub id that the user wrote out
    is ever downloaded; a name is taken from the local cache.
    Raises ModelError where it cannot be had or is not what it claims.
    """
    found = find(spec, revision)
    build, weights = _reader(found, spec)
    entry = found.entry
    if entry and entry.sha256 and entry.sha256 != weights.sha256:
        raise ModelError(
            f"{spec}: the weights have sha256 {weights.sha256}, {entry.name} has {entry.sha256}; fetch them again"
        )
    source = ModelSource(
        folder=found.path if found.path.is_dir() else found.path.parent,
        weights=weights,
        name=spec,
        licence=entry.licence if entry else "not stated; see the model's own page",
        device=torch.device(device),
        dtype=dtype,
        revision=found.revision,
        activation=entry.activation if entry else None,
    )
    return build(source)


def locate(spec: str, revision: str | None = None) -> Path:
    """The folder or file of a model that `load` would read. Raises ModelError where there is none."""
    return find(spec, revision).path


def _reader(found: LocatedModel, spec: str) -> tuple[Build, Weights]:
    """The function that builds the model, chosen by its files where they say it, and its weights."""
    path = found.path
    if found.entry and found.entry.read:
        return found.entry.read, read_weights(path if path.is_file() or _is_checkpoint(path) else _only_file(path))
    if found.entry and found.entry.format in NAMED:
        return NAMED[found.entry.format], read_weights(_only_file(path) if path.is_dir() else path)
    if path.is_file():
        raise ModelError(f"{path} is a file; {spec.partition('=')[0]} is read from a folder")
    own = (path / "config.json").is_file()
    if (path / CONFIG).is_file() and not (own and _is_checkpoint(path)):
        return load_open_clip, read_weights(path, (*OPEN_CLIP, *TRANSFORMERS))
    if not own and any((path / name).is_file() for names in OPEN_CLIP for name in names):
        raise ModelError(f"{path} has weights of open_clip and no {CONFIG}; copy it from the model's page")
    if not own:
        raise ModelError(
            f"{path} has no config.json; {spec} is not a checkpoint in the format of transformers, and without "
            f"{CONFIG} not one of open_clip either"
        )
    family = read_json(path / "config.json").get("model_type")
    if isinstance(family, str) and family in FAMILIES:
        return FAMILIES[family], read_weights(path)
    return _of_plugins(path, family), read_weights(path if _is_checkpoint(path) else _only_file(path))


def _of_plugins(path: Path, family: object) -> Build:
    """The reader of an installed package for this model_type. Raises ModelError where no package has one."""
    reads = {entry.format: entry.read for entry in MODELS.values() if entry.read}
    if not isinstance(family, str) or family not in reads:
        told = " and ".join([*FAMILIES, *reads])
        raise ModelError(f"{path / 'config.json'} says model_type {family!r}; of this format, {told} are read")
    return reads[family]


def _is_checkpoint(folder: Path) -> bool:
    """True where a folder holds weights under the names of transformers."""
    return any((folder / name).is_file() for names in TRANSFORMERS for name in names)


def _only_file(folder: Path) -> Path:
    """The one file of weights in a folder; raises ModelError where there is none or more than one."""
    files = sorted(file for suffix in ("*.safetensors", "*.bin", "*.pt", "*.pth") for file in folder.glob(suffix))
    if len(files) != 1:
        told = ", ".join(file.name for file in files) or "none"
        raise ModelError(
            f"{folder} should hold one file of weights (.safetensors, .bin, .pt), found {told}; name the file"
        )
    return files[0]
