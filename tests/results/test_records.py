"""Records: what is read is what was written; nothing but a torn last line is ever cut off."""

import errno
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from specimens import specimen, study

from medrobust.errors import RunError
from medrobust.results.journal import Journal
from medrobust.results.rows.certified import CERTIFIED, CertifiedKey, read_rows, recompute
from medrobust.smoothing import bounds
from medrobust.smoothing.sequential import certified_radius

to_line, from_line = CERTIFIED.to_line, CERTIFIED.from_line
ROWS = study((0.25,))[:7]
PLAN = [row.key for row in ROWS]
WHOLE = "".join(map(to_line, ROWS)).encode()


def write(path: Path, plan: list[CertifiedKey] = PLAN, batch: int = 2) -> bytes:
    by_key = {row.key: row for row in ROWS}
    with Journal.open(path, plan, CERTIFIED) as journal:
        left = list(journal.remaining)
        for start in range(0, len(left), batch):
            journal.append([by_key[key] for key in left[start : start + batch]])
    return path.read_bytes()


@st.composite
def settings_of_a_row(draw: st.DrawFn) -> dict:  # not a CertifiedRow: beartype looks at its grid with `random`
    trials = draw(st.integers(1, 10**6))
    return {
        "votes": draw(st.integers(0, trials)),
        "trials": trials,
        "id": draw(st.text(st.characters(codec=None))),
        "defence": draw(st.text()),
        "label": draw(st.integers(0, 20)),
        "clean": draw(st.none() | st.integers(0, 20)),
        "selected": draw(st.integers(0, 20)),
        "sigma": draw(st.floats(1e-3, 1e3)),
        "alpha": draw(st.floats(1e-12, 0.5)),
        "scope": draw(st.sampled_from(["model", "tuned on input"])),
        "seed": draw(st.integers(-(2**63), 2**64)),
    }


@given(settings_of_a_row())
@settings(deadline=None)
def test_a_line_reads_back_to_the_same_row_and_radius(chosen: dict) -> None:
    row = specimen(**chosen)
    line = to_line(row)
    assert from_line(line) == row
    assert to_line(from_line(line)) == line
    assert line.isascii()
    assert line.count("\n") == 1
    assert recompute(from_line(line)) == row.radius


def test_the_keys_of_a_line_keep_their_order() -> None:
    assert list(json.loads(to_line(ROWS[0])))[:6] == ["schema_version", "id", "label", "defence", "finding", "sigma"]


def test_radii_of_early_stops_follow_from_their_rows_too() -> None:
    grid = (0.0, 0.1, 0.25)
    early = {"stopping": "spending", "grid": grid, "trials": 320, "drawn": 640, "budget": 2000, "look": 32}
    found = recompute(specimen(316, **early))
    assert found == certified_radius(
        316, 320, stopping="spending", grid=grid, sigma=0.25, alpha=0.001, budget=2000, look=32
    )
    assert found in grid[1:]
    anytime = specimen(316, stopping="anytime", trials=320, drawn=640, budget=2000, look=32)
    assert 0 < recompute(anytime) < bounds.radius(316, 320, 0.001, 0.25)
    with pytest.raises(ValueError, match="no look at 321 draws"):
        recompute(specimen(316, **early | {"trials": 321}))


@pytest.mark.parametrize(
    "change",
    [
        {"votes": 2000},
        {"radius": float("nan")},
        {"radius": -0.1},
        {"sigma": 0.0},
        {"alpha": 1.0},
        {"label": -1},
        {"prediction": 0},
        {"prediction": None},
        {"selection": -1},
        {"drawn": 999},
        {"budget": 999},
        {"look": 0},
        {"look": 1001},
        {"grid": (0.1,)},
        {"stopping": "spending"},
        {"stopping": "spending", "grid": (0.2, 0.1)},
        {"stopping": "spending", "grid": (-0.1, 0.1)},
    ],
)
def test_a_row_that_contradicts_itself_is_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        replace(specimen(), **change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 2}, "schema_version is 2"),
        ({"finding": 3}, "finding is 3"),
        ({"label": "1"}, "label is '1'"),
        ({"label": True}, "label is True"),
        ({"sigma": None}, "sigma is None"),
        ({"radius": 10**400}, "radius is inf"),
        ({"scope": "whatever"}, "scope is 'whatever'"),
        ({"extra": 1}, "keys: extra"),
    ],
)
def test_a_wrong_line_names_file_and_line(tmp_path: Path, change: dict, said: str) -> None:
    path = tmp_path / "certified.jsonl"
    lines = [to_line(ROWS[0]), json.dumps(json.loads(to_line(ROWS[1])) | change) + "\n"]
    path.write_text("".join(lines))
    with pytest.raises(RunError, match="line 2") as caught:
        read_rows(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    with pytest.raises(RunError, match="line 2"):
        Journal.open(path, PLAN, CERTIFIED)
    assert path.read_text() == "".join(lines)


def test_an_interrupted_run_ends_with_the_same_bytes_wherever_it_was_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a thousand of them take seconds
    path = tmp_path / "certified.jsonl"
    whole = write(path, PLAN[:3])
    assert WHOLE.startswith(whole)
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        assert read_rows(path) == ROWS[: whole[:size].count(b"\n")]
        assert path.stat().st_size == size  # reading changes nothing
        assert write(path, PLAN[:3], batch=3) == whole


@pytest.mark.parametrize("garbage", [b"\x00\x00\x00", b'{"id": "a', b"\xff\xfe", b"\n", b'{"id": \n', b"\x00\n"])
def test_an_unreadable_last_line_is_cut_off(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "certified.jsonl"
    path.write_bytes(b"".join(WHOLE.splitlines(keepends=True)[:3]) + garbage)
    assert read_rows(path) == ROWS[:3]
    assert write(path) == WHOLE


def test_an_unreadable_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "certified.jsonl"
    for tail in (to_line(ROWS[0]).encode(), b'{"torn'):
        path.write_bytes(b"{broken\n" + tail)
        with pytest.raises(RunError, match="line 1: not readable"):
            read_rows(path)


@given(st.integers(0, len(PLAN)), st.integers(1, len(PLAN)))
@settings(deadline=None, max_examples=25)
def test_a_longer_plan_goes_on(tmp_path_factory: pytest.TempPathFactory, limit: int, batch: int) -> None:
    path = tmp_path_factory.mktemp("run") / "certified.jsonl"
    write(path, PLAN[:limit], batch)
    with Journal.open(path, PLAN, CERTIFIED) as journal:
        assert journal.done == set(PLAN[:limit])
        assert list(journal.remaining) == PLAN[limit:]
    assert write(path, batch=batch) == WHOLE


@pytest.mark.parametrize(
    "plan", [PLAN[1:], PLAN[:3], [*PLAN[:2], CertifiedKey("other", 0.25, "zero-shot"), *PLAN[3:]], []]
)
def test_another_plan_is_refused_and_the_file_left_as_it_was(tmp_path: Path, plan: list[CertifiedKey]) -> None:
    path = tmp_path / "certified.jsonl"
    path.write_bytes(WHOLE + b'{"torn')
    with pytest.raises(RunError, match="use another --out"):
        Journal.open(path, plan, CERTIFIED)
    assert path.read_bytes() == WHOLE + b'{"torn'


def test_no_key_stands_twice(tmp_path: Path) -> None:
    path = tmp_path / "certified.jsonl"
    with pytest.raises(RunError, match="twice"):
        Journal.open(path, [PLAN[0], PLAN[0]], CERTIFIED)
    path.write_bytes(WHOLE + to_line(ROWS[0]).encode())
    with pytest.raises(RunError, match=f"line {len(ROWS) + 1}: a second row"):
        read_rows(path)


def test_rows_out_of_order_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "certified.jsonl"
    with Journal.open(path, PLAN[:2], CERTIFIED) as journal:
        for wrong in (ROWS[1:2], [ROWS[0], ROWS[0]], ROWS[:3]):
            with pytest.raises(RunError, match="plan"):
                journal.append(wrong)
        journal.append(ROWS[:2])
    assert read_rows(path) == ROWS[:2]


def test_a_full_disk_keeps_what_was_safe_and_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "certified.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal.open(path, PLAN, CERTIFIED) as journal:
        journal.append(ROWS[:2])
        safe = path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(safe) + 40, hard))  # the kernel takes 40 bytes, then none
        try:
            with pytest.raises(RunError, match="first 2 rows are safe"):
                journal.append(ROWS[2:4])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == safe
        journal.append(ROWS[2:])
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_no_space_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "certified.jsonl"
    with Journal.open(path, PLAN, CERTIFIED) as journal:
        journal.append(ROWS[:1])
        with monkeypatch.context() as patch:
            patch.setattr(os, failing, full)
            with pytest.raises(RunError, match=r"the disk is full.*first 1 rows are safe"):
                journal.append(ROWS[1:])
    assert write(path) == WHOLE


def test_appending_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    write_there = os.write
    monkeypatch.setattr(os, "write", lambda to, data: sizes.append(len(data)) or write_there(to, data))
    with Journal.open(tmp_path / "certified.jsonl", PLAN, CERTIFIED) as journal:
        journal.append(ROWS)
    assert sizes == [len(WHOLE)]


def test_another_writer_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "certified.jsonl"
    with Journal.open(path, PLAN, CERTIFIED) as journal:
        write(path)
        with pytest.raises(RunError, match="another process"):
            journal.append(ROWS[:1])
    assert path.read_bytes() == WHOLE


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "certified.jsonl"):
        with pytest.raises(RunError, match="cannot be written"):
            Journal.open(path, PLAN, CERTIFIED)

    def read_only(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(RunError, match="no permission"):
        Journal.open(tmp_path / "certified.jsonl", PLAN, CERTIFIED)


def test_a_missing_file_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="medrobust certify"):
        read_rows(tmp_path / "certified.jsonl")


def test_results_leave_torch_alone() -> None:
    code = "import sys, medrobust.results, medrobust.results.folder as _; "
    code += "sys.exit(bool({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
