"""The bytes of a run of every kind stay what they were, or `digests.json` says in its own commit that they changed.

`python tests/golden/test_golden.py` writes the digests anew.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import work

KEPT = Path(__file__).with_name("digests.json")


def made_in(folder: Path) -> dict[str, str]:
    environment = {**os.environ, **work.MACHINE}
    done = subprocess.run(
        [sys.executable, work.__file__], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return work.digests(folder)


def test_every_file_has_the_bytes_it_had(tmp_path: Path) -> None:
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    other = [f"{name} {was}" for name, was in kept["made with"].items() if work.versions()[name] != was]
    if other:
        pytest.skip(f"the digests were made with {', '.join(other)}")
    found = made_in(tmp_path)
    assert found.keys() == kept["files"].keys()
    assert [name for name in found if found[name] != kept["files"][name]] == []


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        files = made_in(Path(scratch))
    KEPT.write_text(json.dumps({"made with": work.versions(), "files": files}, indent=1) + "\n", encoding="utf-8")
