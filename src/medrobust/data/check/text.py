"""The result of a check of images as a page of text."""

from collections.abc import Callable, Iterable, Sequence

from medrobust.data.check.report import CheckReport, FrequentSize, Group, NamedImage, Seen, Sizes, SplitCounts
from medrobust.data.sources.inventory import EVERY

_SHOWN = 5  # of each kind of finding; --json has all


def check_text(found: CheckReport) -> str:
    """The page for a terminal: counts, pictures, what the model will see, findings, and the verdict."""
    lines = [f"{found.source}: {found.images} images, task {found.task or 'not given'}", ""]
    for split, part in found.splits.items():
        lines += _split(split, part)
    if found.sizes:
        lines += [*_pictures(found.sizes, found.kinds.items()), *_model(found.preprocess, found.sizes), ""]
    duplicates = found.duplicates
    lines += _listed("broken", [f"{image.id}: {image.reason}" for image in found.broken])
    lines += _listed("one picture, several labels", _groups(duplicates.across_classes, lambda image: image.label))
    lines += _listed("one picture, several splits", _groups(duplicates.across_splits, lambda image: image.split))
    lines += _listed("one picture, several times in a class", _groups(duplicates.within_class))
    lines += _listed("blank, every pixel the same", [image.id for image in found.blank])
    several = [f"{image.id}: {image.frames} frames" for image in found.several_frames]
    lines += _listed("more than one frame, only the first is used", several)
    lines += _listed("notes", found.notes)
    if found.usable:
        lines.append("No problem found.")
    else:
        lines += [f"{len(found.problems)} problems:", *(f"  {text}" for text in found.problems)]
    return "\n".join(lines)


def _split(name: str, part: SplitCounts) -> list[str]:
    title = "no splits: these serve every split" if name == EVERY else f"split {name}"
    width = max(len(label) for label in part.classes)
    lines = [f"{title}: {part.images} images"]
    lines += [f"  {label:<{width}}  {count:>6}" for label, count in part.classes.items()]
    if part.largest_over_smallest is not None and part.always_the_largest_class is not None:
        lines.append(
            f"  largest class / smallest: {part.largest_over_smallest:.1f}; "
            f"always answering the largest scores {100 * part.always_the_largest_class:.1f} %"
        )
    return [*lines, ""]


def _shape(size: FrequentSize) -> str:
    return f"{size.width} x {size.height}"


def _pictures(sizes: Sizes, kinds: Iterable[tuple[str, int]]) -> list[str]:
    frequent = sizes.most_frequent
    sides = [
        f"{name} {side.min} to {side.max} (median {side.median:g})"
        for name, side in (("width", sizes.width), ("height", sizes.height))
    ]
    several = (
        f"{', '.join(sides)}; {sizes.different} sizes, most frequent {_shape(frequent)} ({frequent.images} images)"
    )
    return [
        f"pixels: {several if sizes.different > 1 else f'all {_shape(frequent)}'}",
        "kinds: " + "; ".join(f"{count} {kind}" for kind, count in kinds),
    ]


def _model(seen: Seen, sizes: Sizes) -> list[str]:
    preprocess, outside = seen.preprocess, seen.outside
    shape = plain = _shape(sizes.most_frequent)
    enlarged = f"; {seen.enlarged} images are enlarged" if seen.enlarged else ""
    if preprocess.canvas:
        shape = f"{shape} -> laid on a black square"
    if not preprocess.crop or outside is None:
        size = preprocess.size
        return [f"for the model: {shape} -> squeezed to {size} x {size}, whatever the aspect ratio{enlarged}"]
    worst = " x ".join(map(str, outside.worst_size))
    more = "" if worst == plain or preprocess.canvas else f" (at most {100 * outside.worst:.0f} %, of {worst})"
    return [
        f"for the model: {shape} -> shorter side to {preprocess.resize}, centre {preprocess.size} x {preprocess.size} "
        f"cut out: {100 * outside.most_frequent_size:.0f} % of the area outside the crop{more}{enlarged}"
    ]


def _groups(groups: Iterable[Group], told: Callable[[NamedImage], str] | None = None) -> list[str]:
    return [" = ".join(f"{image.id} ({told(image)})" if told else image.id for image in group) for group in groups]


def _listed(title: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    more = [f"  and {len(items) - _SHOWN} more; --json lists all"] if len(items) > _SHOWN else []
    return [f"{title} ({len(items)}):", *(f"  {item}" for item in items[:_SHOWN]), *more, ""]
