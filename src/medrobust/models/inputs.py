"""A checkpoint's inputs: resize, crop, mean and std from its JSON files, words from its tokenizer files."""

import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from medrobust.errors import ModelError
from medrobust.types import Interpolation, Preprocess

N = TypeVar("N")
Tokenize = Callable[[str], list[int]]  # begin marker (where there is one), words, end marker

# PIL's numbers for resampling filters, as preprocessor_config.json writes them
_FILTERS: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


class Pixels(NamedTuple):
    """The preprocessing of pictures, and the mean and std by which the model normalises inside."""

    preprocess: Preprocess
    mean: list[float]
    std: list[float]


class _Preprocessor(NamedTuple):
    """Of preprocessor_config.json; `resample` is a number of PIL's."""

    size: Any
    image_mean: Sequence[Any]
    image_std: Sequence[Any]
    crop_size: Any = None
    do_center_crop: Any = None
    resample: Any = 3


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises ModelError where there is none in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not a JSON object") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} is not a JSON object")
    return found


def said_in(form: Callable[..., N], values: Any) -> N:
    """Values of a config for the fields of a form, and the form's defaults for the rest; other keys are left out.

    Raises KeyError naming a field without a default that is not said, TypeError where there are no keys.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"expected keys and values, got {values!r}")
    fields = signature(form).parameters
    missing = next((key for key, one in fields.items() if one.default is one.empty and key not in values), None)
    if missing is not None:
        raise KeyError(missing)
    return form(**{key: values[key] for key in fields if key in values})


def read_preprocess(folder: Path, *, crop: bool = True) -> Pixels:
    """Size, crop, interpolation, mean and std from a checkpoint's preprocessor_config.json.

    `crop`: whether the centre is cut out where the file does not say.
    """
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no preprocessor_config.json, so its resize and normalisation are unknown")
    try:
        known = said_in(_Preprocessor, json.loads(path.read_text(encoding="utf-8")))
        crop = crop if known.do_center_crop is None else bool(known.do_center_crop)
        resize = _side(known.size, "shortest_edge")
        size = _side(known.crop_size, "height") if crop else resize
        interpolation = _FILTERS[int(known.resample)]
        mean, std = [float(v) for v in known.image_mean], [float(v) for v in known.image_std]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is not a CLIP preprocessing: {type(error).__name__} {error}") from error
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ModelError(f"{path}: image_mean and image_std must be three numbers each, std positive")
    return Pixels(Preprocess(size, resize, interpolation, crop), mean, std)


def clip_tokenizer(folder: Path, name: str, eos: int | list[int]) -> Tokenize:
    """CLIP's words; raises ModelError without its files, or where it ends a text otherwise than the config expects."""
    from transformers import CLIPTokenizer

    if not ((folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()):
        raise ModelError(
            f"{folder} has no tokenizer.json and no vocab.json with merges.txt; copy them there, from the model's page "
            "or from any CLIP with the same words (openai/clip-vit-base-patch32)"
        )
    tokenize = calling(CLIPTokenizer.from_pretrained(folder))
    end = tokenize("a")[-1]
    if eos not in (2, end):  # 2 stands for the rule of old configs: the largest id ends the text
        raise ModelError(f"{name}: its tokenizer ends a text with token {end}, its config expects {eos}")
    return tokenize


def bert_tokenizer(folder: Path, words: int, source: str) -> Tokenize:
    """BERT's words, begin and end marker around them.

    Raises ModelError without the files, or where the vocabulary has more than the `words` that the tower knows.
    """
    from transformers import BertTokenizer

    if not ((folder / "tokenizer.json").is_file() or (folder / "vocab.txt").is_file()):
        raise ModelError(f"{folder} has no tokenizer.json and no vocab.txt; copy them there from {source}")
    tokenizer = BertTokenizer.from_pretrained(folder)
    if len(tokenizer) > words:
        raise ModelError(f"{folder}: its tokenizer has {len(tokenizer)} words, the text tower knows {words}")
    return calling(tokenizer)


def siglip_tokenizer(folder: Path, name: str) -> Tokenize:
    """SigLIP's words and their end marker, from tokenizer.json; texts are lowered and freed of punctuation.

    Raises ModelError where there is only a spiece.model, which needs another package.
    """
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json; copy it there from the model's page (spiece.model alone is not read)"
        )
    raw = calling(PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")))
    config = folder / "tokenizer_config.json"
    said = read_json(config) if config.is_file() else {}
    first = str(said.get("tokenizer_class", "SiglipTokenizer")).startswith("SiglipTokenizer")  # later ones keep commas
    if not raw(""):
        raise ModelError(f"{name}: its tokenizer puts no end marker after a text, so it is none of SigLIP's")
    return lambda text: raw(plain_words(text) if first else text.lower())


def plain_words(text: str) -> str:
    """Lower case, no punctuation, single spaces, as SigLIP was trained.

    >>> plain_words("A photo  of 'x-rays'.")
    'a photo of xrays'
    """
    return " ".join(re.sub(f"[{re.escape(string.punctuation)}]", "", text.lower()).split())


def calling(tokenizer: Any) -> Tokenize:
    """Whole token ids of a text, with the tokenizer's own markers."""

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, truncation=False, verbose=False)["input_ids"])

    return tokenize


def _side(size: Any, key: str) -> int:
    if isinstance(size, dict):
        return int(size[key] if key in size else size["height"])
    return int(size)
