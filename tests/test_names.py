"""Names and docstrings of the package: one meaning a name, and sentences that begin with their subject.

Type aliases, constants and methods do not count, and the command line may repeat a name that it calls.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "medrobust"
QUESTIONS = {"What", "How", "Where", "Which", "Whether", "Who", "Why", "When", "So"}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def modules(folder: Path) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path.relative_to(folder).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def defined_twice(folder: Path) -> dict[str, list[str]]:
    places: dict[str, set[str]] = {}
    for path, module in modules(folder):
        if path.startswith("cli/"):
            continue
        for node in module.body:
            if isinstance(node, Definition) and not node.name.startswith("_"):
                places.setdefault(node.name, set()).add(path)
    return {name: sorted(where) for name, where in places.items() if len(where) > 1}


def questions(folder: Path) -> list[str]:
    found = []
    for path, module in modules(folder):
        for node in ast.walk(module):
            if isinstance(node, Definition | ast.Module):
                words = (ast.get_docstring(node) or "").split()
                if words and words[0].rstrip(",:;.") in QUESTIONS:
                    found.append(f"{path}:{getattr(node, 'lineno', 1)}: {' '.join(words)}")
    return found


def test_a_public_name_is_defined_in_one_module() -> None:
    assert defined_twice(SOURCE) == {}


def test_a_docstring_begins_with_its_subject() -> None:
    assert questions(SOURCE) == []


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    (tmp_path / "cli").mkdir()
    one = "class Found:\n    def read(self): ...\ndef _own(): ...\ndef read(): ...\nNorm = int\n"
    (tmp_path / "one.py").write_text('"""Which of them."""\n' + one)
    (tmp_path / "two.py").write_text('async def read():\n    """How, in short."""\ndef _own(): ...\nNorm = str\n')
    (tmp_path / "cli" / "three.py").write_text('class Found:\n    """Whatever was found."""\n')
    return tmp_path


def test_a_name_in_two_modules_is_found(planted: Path) -> None:
    assert defined_twice(planted) == {"read": ["one.py", "two.py"]}


def test_a_question_is_found(planted: Path) -> None:
    assert questions(planted) == ["one.py:1: Which of them.", "two.py:1: How, in short."]
