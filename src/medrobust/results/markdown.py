"""Tables as Markdown, for papers, discussions and model cards."""

from collections.abc import Iterable, Sequence

DAGGER = "†"  # tuned on input


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 2) -> list[str]:
    """The lines of a table; columns after the first `left` are numbers, and stand at the right."""
    ruler = ["---"] * min(left, len(header)) + ["---:"] * (len(header) - left)
    return [table_line(header), table_line(ruler), *map(table_line, rows)]


def table_line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def cell_text(name: str) -> str:
    """A name escaped for a table cell and for HTML."""
    for sign, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|")):
        name = name.replace(sign, written)
    return " ".join(name.split())


def marked(name: str, scope: str) -> str:
    """A defence's name in a table, with a dagger where it was tuned on the input."""
    return cell_text(name) + (f" {DAGGER}" if scope != "model" else "")
