"""Names of the package: one meaning a name.

Type aliases, constants and methods do not count, and the command line may repeat a name that it calls.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "medrobust"
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


def test_a_public_name_is_defined_in_one_module() -> None:
    assert defined_twice(SOURCE) == {}


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
