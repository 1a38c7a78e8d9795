"""Values are read by attribute: the string keys in the package stay few."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "medrobust"
MOST = 5.0  # in 1,000 lines


def string_keys(text: str) -> int:
    """Subscripts with a string literal, and calls of `get` with one."""

    def literal(node: ast.AST) -> bool:
        return isinstance(node, ast.Constant) and isinstance(node.value, str)

    def counts(node: ast.AST) -> bool:
        if isinstance(node, ast.Subscript):
            return literal(node.slice)
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get"
        return called and bool(node.args) and literal(node.args[0])

    return sum(map(counts, ast.walk(ast.parse(text))))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('a["b"]["c"] = d.get("e", f["g"])', 4),
        ('a[b]; a[1]; a["b":]; a.get(b); get("b"); {"a": 1}', 0),
        ('x: Float[Tensor, "batch"]', 0),
    ],
)
def test_keys_are_counted(text: str, count: int) -> None:
    assert string_keys(text) == count


def test_few_values_are_read_by_a_string() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    keys = {path.relative_to(SOURCE).as_posix(): string_keys(text) for path, text in texts.items()}
    lines = sum(len(text.splitlines()) for text in texts.values())
    largest = sorted(keys.items(), key=lambda item: -item[1])[:5]
    assert 1000 * sum(keys.values()) / lines < MOST, largest
