"""From what a user writes to files on this disk: a name, a hub id, a path, or a name and a path."""

import os
from pathlib import Path
from typing import NamedTuple

from medrobust.errors import ModelError
from medrobust.models.known import MODELS, Entry

BUILTIN = Path(__file__).parent / "builtin"
WANTED_FILES = [
    "config.json", "preprocessor_config.json", "open_clip_config.json", "tokenizer*.json", "vocab.json", "merges.txt",
    "vocab.txt",
]  # fmt: skip


class LocatedModel(NamedTuple):
    """A model's files on this disk. `entry`: its entry in MODELS, if any; `revision`: the hub's commit, if known."""

    path: Path
    entry: Entry | None
    revision: str | None = None


def find(spec: str, revision: str | None = None) -> LocatedModel:
    """A model's files; a folder goes before a name, and before a hub id, of the same spelling.

    Only a hub id that the user wrote out is ever downloaded. Raises ModelError where there are none, or where the
    cache holds another revision than the one that the name stands for.
    """
    entry = MODELS.get(spec)
    if entry and entry.source == "embedded":
        return LocatedModel(BUILTIN, entry)
    if entry and Path(entry.source).is_absolute():
        return LocatedModel(_existing(Path(entry.source), spec), entry)
    if Path(spec).expanduser().is_dir():
        return LocatedModel(Path(spec).expanduser(), None)
    name, _, path = spec.partition("=")
    if path and name in MODELS:
        return LocatedModel(_existing(Path(path).expanduser(), name), MODELS[name])
    if entry and entry.by_hand:
        raise ModelError(
            f"{spec} cannot be fetched by a program; get it from {entry.source} and pass --model {spec}=PATH"
        )
    if entry:
        return _as_pinned(_from_hub(entry.source, revision, spec, download=False), entry, revision)
    if spec.count("/") == 1 and not spec.startswith((".", "/", "~")):
        known = next((one for one in MODELS.values() if one.source == spec), None)
        folder = _from_hub(spec, revision, spec, download=True)
        return LocatedModel(folder, known, _commit(folder))
    raise ModelError(
        f"{spec!r} is neither a folder nor a known model; pass one of {', '.join(MODELS)}, a hub id (owner/name), a "
        "folder, or NAME=PATH"
    )


def _existing(path: Path, name: str) -> Path:
    if not path.exists():
        raise ModelError(f"{path} does not exist; pass --model {name}=PATH with the file or folder of the weights")
    return path


def _as_pinned(folder: Path, entry: Entry, asked: str | None) -> LocatedModel:
    commit = _commit(folder)
    if entry.revision and commit and not asked and not commit.startswith(entry.revision):
        raise ModelError(
            f"{entry.name} stands for revision {entry.revision}, the local cache holds {commit}; ask for that one by "
            f"revision, or pass {entry.source}"
        )
    return LocatedModel(folder, entry, commit)


def _commit(folder: Path) -> str | None:
    """The hub's cache calls the folder of a snapshot by its commit."""
    return folder.name if folder.parent.name == "snapshots" else None


def _from_hub(hub_id: str, revision: str | None, spec: str, *, download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    patterns = [*WANTED_FILES, "*.safetensors", "*.safetensors.index.json"]
    try:
        local = not download or offline
        folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns, local_files_only=local))
        if not any(folder.glob("*.safetensors")):
            pickled = ["pytorch_model*.bin", "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin"]
            patterns = [*WANTED_FILES, *pickled]
            snapshot_download(hub_id, revision=revision, allow_patterns=patterns, local_files_only=local)
    except LocalEntryNotFoundError as error:
        how = f"pass --model {hub_id} once with a network to download it" if not download else (
            "connect once, or copy the checkpoint here and pass its folder"
        )  # fmt: skip
        raise ModelError(f"{spec} is not in the local cache and cannot be fetched offline; {how}") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(f"{hub_id} cannot be had from the hub: {str(error).splitlines()[0]}") from error
    return folder
