"""Where models come from: `load` a name, a hub id or a local folder."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from medrobust.errors import ModelError
from medrobust.models.clip import Clip, load_clip
from medrobust.models.weights import read_weights

BUILTIN = Path(__file__).parent / "builtin"
WANTED_FILES = ["config.json", "preprocessor_config.json", "tokenizer*.json", "vocab.json", "merges.txt"]


@dataclass(frozen=True)
class Entry:
    """One known model: where it lies, in which format, under which licence."""

    name: str
    title: str
    source: str  # "embedded" or a hub id
    format: Literal["transformers"]
    image_size: int
    licence: str
    commercial_use: bool | None  # None: the source does not say


MODELS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("builtin", "small CLIP for blood cells, chest X-rays, colon tissue", "embedded", "transformers", 56,
              "Apache-2.0; trained on CC BY 4.0 and CC0 images", True),
        Entry("plip", "PLIP: CLIP ViT-B/32 for pathology", "vinid/plip", "transformers", 224,
              "none stated; model card: research use", None),
        Entry("clip-vit-base-patch32", "OpenAI CLIP ViT-B/32", "openai/clip-vit-base-patch32", "transformers", 224,
              "MIT (code)", True),
        Entry("clip-vit-base-patch16", "OpenAI CLIP ViT-B/16", "openai/clip-vit-base-patch16", "transformers", 224,
              "MIT (code)", True),
        Entry("clip-vit-large-patch14", "OpenAI CLIP ViT-L/14", "openai/clip-vit-large-patch14", "transformers", 224,
              "MIT (code)", True),
    )
}  # fmt: skip


def load(
    spec: str,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
) -> Clip:
    """A frozen model in evaluation mode.

    `spec`: a name from `MODELS`, a hub id (`owner/name`) or a local folder in the format of transformers. Only a hub
    id that the user wrote out is ever downloaded; a name is taken from the local cache.
    Raises ModelError where it cannot be had or is not what it claims.
    """
    folder = locate(spec, revision)
    known = next((entry for entry in MODELS.values() if spec in (entry.name, entry.source)), None)
    licence = known.licence if known else "not stated; see the model's own page"
    _check_family(folder, spec)
    return load_clip(folder, read_weights(folder), name=spec, licence=licence, device=torch.device(device), dtype=dtype)


def locate(spec: str, revision: str | None = None) -> Path:
    """The folder of a model that `load` would read. Raises ModelError where there is none."""
    entry = MODELS.get(spec)
    if entry and entry.source == "embedded":
        return BUILTIN
    if Path(spec).expanduser().is_dir():
        return Path(spec).expanduser()
    if entry:
        return _from_hub(entry.source, revision, spec, download=False)
    if spec.count("/") == 1 and not spec.startswith((".", "/", "~")):
        return _from_hub(spec, revision, spec, download=True)
    raise ModelError(
        f"{spec!r} is no folder and no known model; pass one of {', '.join(MODELS)}, a hub id (owner/name) or a folder"
    )


def _from_hub(hub_id: str, revision: str | None, spec: str, *, download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    patterns = [*WANTED_FILES, "*.safetensors", "*.safetensors.index.json"]
    try:
        local = not download or offline
        folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns, local_files_only=local))
        if not any(folder.glob("*.safetensors")):
            patterns = [*WANTED_FILES, "pytorch_model*.bin", "pytorch_model.bin.index.json"]
            snapshot_download(hub_id, revision=revision, allow_patterns=patterns, local_files_only=local)
    except LocalEntryNotFoundError as error:
        how = f"pass --model {hub_id} once with a network to download it" if not download else (
            "connect once, or copy the checkpoint here and pass its folder"
        )  # fmt: skip
        raise ModelError(f"{spec} is not in the local cache and cannot be fetched offline; {how}") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(f"{hub_id} cannot be had from the hub: {str(error).splitlines()[0]}") from error
    return folder


def _check_family(folder: Path, spec: str) -> None:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no config.json; {spec} is no checkpoint in the format of transformers")
    try:
        family = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path} is no JSON object") from error
    if family != "clip":
        raise ModelError(f"{path} says model_type {family!r}; this version loads CLIP-shaped models ('clip') only")
