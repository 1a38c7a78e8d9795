"""A choice of a data set's images: the first few of every class, or random ones of every class."""

from collections import Counter
from collections.abc import Sequence

import torch

from medrobust.data.task import Dataset
from medrobust.errors import ConfigError, DataError


def balanced(targets: Sequence[int], limit: int | None) -> list[int]:
    """Rows of `limit` images (all without a limit), taken in turn from every class.

    The rows of a smaller limit are the first rows of a larger one, so that a run can be extended. Raises `ConfigError`
    when the limit is below one.

    >>> balanced([0, 0, 0, 1, 1], 4)
    [0, 3, 1, 4]
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"the limit is {limit} images, expected at least 1")
    seen: Counter[int] = Counter()
    turns = []
    for row, label in enumerate(targets):
        turns.append((seen[label], label, row))
        seen[label] += 1
    return [row for _, _, row in sorted(turns)[:limit]]


def shots(dataset: Dataset, count: int, generator: torch.Generator) -> Dataset:
    """`count` random images of every class (all of a class that has fewer), in the order of the data.

    Raises `DataError` when a class has no image and `ConfigError` when the count is below one.
    """
    if count < 1:
        raise ConfigError(f"{count} shots a class were asked for, expected at least 1")
    rows: list[int] = []
    for label, name in enumerate(dataset.task.classes):
        own = [row for row, target in enumerate(dataset.targets) if target == label]
        if not own:
            raise DataError(
                f"split {dataset.split} of {dataset.source} has no image of class {name!r}, so no shots can be taken"
            )
        rows += [own[i] for i in torch.randperm(len(own), generator=generator)[:count].tolist()]
    return dataset.subset(sorted(rows))
