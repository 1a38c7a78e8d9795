"""The result of a check of images as a page of text."""

from collections.abc import Iterable, Sequence
from typing import Any

from medrobust.data.sources.inventory import EVERY

_SHOWN = 5  # of each kind of finding; --json has all


def check_text(found: dict[str, Any]) -> str:
    """The page for a terminal: counts, pictures, what the model will see, findings, and the verdict."""
    lines = [f"{found['source']}: {found['images']} images, task {found['task'] or 'not given'}", ""]
    for split, part in found["splits"].items():
        lines += _split(split, part)
    if found["sizes"]:
        lines += [*_pictures(found), *_model(found), ""]
    duplicates = found["duplicates"]
    lines += _listed("broken", [f"{row['id']}: {row['reason']}" for row in found["broken"]])
    lines += _listed("one picture, several labels", _groups(duplicates["across_classes"], "class"))
    lines += _listed("one picture, several splits", _groups(duplicates["across_splits"], "split"))
    lines += _listed("one picture, several times in a class", _groups(duplicates["within_class"]))
    lines += _listed("blank, every pixel the same", [row["id"] for row in found["blank"]])
    several = [f"{row['id']}: {row['frames']} frames" for row in found["several_frames"]]
    lines += _listed("more than one frame, only the first is used", several)
    lines += _listed("notes", found["notes"])
    if found["usable"]:
        lines.append("No problem found.")
    else:
        lines += [f"{len(found['problems'])} problems:", *(f"  {text}" for text in found["problems"])]
    return "\n".join(lines)


def _split(name: str, part: dict[str, Any]) -> list[str]:
    title = "no splits: these serve every split" if name == EVERY else f"split {name}"
    width = max(len(label) for label in part["classes"])
    lines = [f"{title}: {part['images']} images"]
    lines += [f"  {label:<{width}}  {count:>6}" for label, count in part["classes"].items()]
    if part["largest_over_smallest"] is not None:
        lines.append(
            f"  largest class / smallest: {part['largest_over_smallest']:.1f}; "
            f"always answering the largest scores {100 * part['always_the_largest_class']:.1f} %"
        )
    return [*lines, ""]


def _pictures(found: dict[str, Any]) -> list[str]:
    sizes = found["sizes"]
    frequent = sizes["most_frequent"]
    shape = f"{frequent['width']} x {frequent['height']}"
    sides = [
        f"{name} {sizes[name]['min']} to {sizes[name]['max']} (median {sizes[name]['median']:g})"
        for name in ("width", "height")
    ]
    several = f"{', '.join(sides)}; {sizes['different']} sizes, most frequent {shape} ({frequent['images']} images)"
    return [
        f"pixels: {several if sizes['different'] > 1 else f'all {shape}'}",
        "kinds: " + "; ".join(f"{count} {kind}" for kind, count in found["kinds"].items()),
    ]


def _model(found: dict[str, Any]) -> list[str]:
    preprocess, frequent = found["preprocess"], found["sizes"]["most_frequent"]
    size, resize = preprocess["size"], preprocess["resize"]
    shape = plain = f"{frequent['width']} x {frequent['height']}"
    enlarged = f"; {preprocess['enlarged']} images are enlarged" if preprocess["enlarged"] else ""
    if preprocess["canvas"]:
        shape = f"{shape} -> laid on a black square"
    if not preprocess["crop"]:
        return [f"for the model: {shape} -> squeezed to {size} x {size}, whatever the aspect ratio{enlarged}"]
    outside = preprocess["outside_the_crop"]
    worst = " x ".join(map(str, outside["worst_size"]))
    more = "" if worst == plain or preprocess["canvas"] else f" (at most {100 * outside['worst']:.0f} %, of {worst})"
    return [
        f"for the model: {shape} -> shorter side to {resize}, centre {size} x {size} cut out: "
        f"{100 * outside['most_frequent_size']:.0f} % of the area outside the crop{more}{enlarged}"
    ]


def _groups(groups: Iterable[Sequence[dict[str, str]]], *keys: str) -> list[str]:
    return [
        " = ".join(f"{row['id']} ({', '.join(row[key] for key in keys)})" if keys else row["id"] for row in group)
        for group in groups
    ]


def _listed(title: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    more = [f"  and {len(items) - _SHOWN} more; --json lists all"] if len(items) > _SHOWN else []
    return [f"{title} ({len(items)}):", *(f"  {item}" for item in items[:_SHOWN]), *more, ""]
