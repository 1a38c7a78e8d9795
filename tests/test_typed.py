"""The package tells type checkers that it has types (PEP 561)."""

from importlib.resources import files


def test_the_marker_lies_in_the_package() -> None:
    assert (files("medrobust") / "py.typed").read_bytes() == b""
