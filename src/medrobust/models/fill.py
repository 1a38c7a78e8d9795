"""Networks of transformers filled with a checkpoint's weights, strictly: every key and every shape must match."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medrobust.errors import ModelError

LARGEST_ENDS = {"bos_token_id": None, "eos_token_id": 2}  # a CLIP's text ends with its largest id


def sizes_of(width: int, layers: int, *, heads: int, inner: int) -> dict[str, int]:
    """The sizes of a tower by the names of transformers."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return dict(zip(names, (width, layers, heads, inner), strict=True))


def configured(make: Callable[..., Any], *given: Any, name: str, what: str, **sizes: Any) -> Any:
    """A configuration of transformers, or of a folder; raises ModelError where its numbers do not go together."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        return make(*given, **sizes)
    except (StrictDataclassError, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise ModelError(f"{name}: its sizes make no {what}: {' '.join(str(error).split())}") from error


def filled(
    network: Any, config: Any, tensors: Mapping[str, Tensor], *, name: str, what: str, dtype: torch.dtype,
    prefix: str = "", **options: Any,
) -> Any:  # fmt: skip
    """A frozen `network` (a class of transformers) of that `config` with these weights; `options` go to the class.

    Keys are told with `prefix`, as the file has them. Raises ModelError for missing, unexpected or misshapen weights.
    """
    try:
        with silent():
            found, report = network.from_pretrained(
                None,
                config=config,
                state_dict=dict(tensors),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report, and refused below
                dtype=dtype,
                **options,
            )
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{name}: its sizes make no {what}: {' '.join(str(error).split())}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        refuse_keys(kind, [prefix + _told(key) for key in report[kind]], name=name, what=what)
    return found.requires_grad_(False).eval()


def refuse_keys(kind: str, keys: list[str], *, name: str, what: str) -> None:
    """Raise ModelError naming up to three of the keys; nothing where there are none."""
    if keys:
        keys = sorted(keys)
        shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
        raise ModelError(f"{name}: {kind.replace('_', ' ')} in its weights: {shown}; the checkpoint is not a {what}")


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights below a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def refuse_others(tensors: Mapping[str, Tensor], known: tuple[str, ...], *, name: str, what: str) -> None:
    """Raise ModelError for keys that begin with none of these."""
    refuse_keys("unexpected_keys", [key for key in tensors if not key.startswith(known)], name=name, what=what)


def shape_of(
    tensors: Mapping[str, Tensor], key: str, sides: int, *, name: str, what: str, prefix: str = ""
) -> tuple[int, ...]:
    """The shape of a weight with that number of axes. Raises ModelError where it is missing or has more or fewer."""
    if key not in tensors:
        refuse_keys("missing_keys", [prefix + key], name=name, what=what)
    shape = tuple(tensors[key].shape)
    if len(shape) != sides:
        raise ModelError(f"{name}: {prefix + key} has shape {list(shape)}, expected {sides} sides; it is not a {what}")
    return shape


def depth(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """The number of numbered layers below a prefix.

    >>> import torch
    >>> depth({"layer.0.weight": torch.ones(1), "layer.1.weight": torch.ones(1), "norm": torch.ones(1)}, "layer.")
    2
    """
    numbers = (key.removeprefix(prefix).partition(".")[0] for key in tensors if key.startswith(prefix))
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)


def taken(tensors: Mapping[str, Tensor], key: str, shape: tuple[int, ...], *, name: str, what: str) -> Tensor:
    """One weight of that shape (a single number may be stored as one row). Raises ModelError where it is not there."""
    if key not in tensors:
        refuse_keys("missing_keys", [key], name=name, what=what)
    found = tensors[key]
    if tuple(found.shape) == shape or (shape == () and found.numel() == 1):
        return found.reshape(shape)
    refuse_keys("mismatched_keys", [_told((key, found.shape, torch.Size(shape)))], name=name, what=what)
    return found


def projection(
    tensors: Mapping[str, Tensor], key: str, shape: tuple[int, int], *, name: str, what: str, dtype: torch.dtype
) -> nn.Linear:
    """A frozen linear layer without bias from one weight of that shape (outputs, inputs)."""
    layer = nn.Linear(shape[1], shape[0], bias=False)
    weight = taken(tensors, key, shape, name=name, what=what).to(dtype)
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    return layer.eval()


@contextmanager
def silent() -> Iterator[None]:
    """transformers without its progress bars and warnings: this package checks the same and says it itself."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _told(key: str | tuple[str, torch.Size, torch.Size]) -> str:
    return key if isinstance(key, str) else f"{key[0]} has shape {list(key[1])}, not {list(key[2])}"
