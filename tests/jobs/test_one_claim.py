"""A folder is claimed in one place."""

import ast
from pathlib import Path

from medrobust.jobs import KINDS, kind_of

SOURCE = Path(__file__).parents[2] / "src" / "medrobust"


def test_one_function_claims_a_folder() -> None:
    found = [
        (path.relative_to(SOURCE).as_posix(), node.name)
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.strip("_") == "claim"
    ]
    assert found == [("jobs/folder.py", "claim")]


def test_settings_of_a_job_are_compared_in_one_place() -> None:
    """Whoever compares what a folder holds with what is asked for uses `changes`, or tells to use another --out."""
    using = [path for path in SOURCE.rglob("*.py") if "changes(was, now)" in path.read_text(encoding="utf-8")]
    assert [path.name for path in using] == ["folder.py"]


def test_every_kind_is_known_by_its_own_name() -> None:
    assert {"attack", "audit", "certify", "check", "fit", "poison", "tiles", "vqa"} <= KINDS.keys()
    assert all(kind_of(name).name == name for name in KINDS)
    files = [(kind_of(name).settings_file, kind_of(name).rows_file) for name in KINDS]
    assert len({rows for _, rows in files}) == len(files)
