"""README and docs: links and anchors resolve, shown commands exist with their options, tables have one place each."""

import importlib
import importlib.util
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from medrobust.cli import app
from medrobust.cli.reference import filled, tables
from medrobust.defences import make_defence
from medrobust.errors import ConfigError
from medrobust.jobs.experiment import PARTS, Experiment
from medrobust.settings import parse

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
COMMANDS: Any = get_command(app)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", flags=re.M | re.S)


def prose(text: str) -> str:
    return FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """Ids of the headings, as Python-Markdown makes them."""
    made, seen = set(), Counter[str]()
    for heading in re.findall(r"^#{1,6} (.+)$", prose(text), flags=re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()
        name = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
        made.add(f"{name}_{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return made


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links of a page that lead to no file, or to no heading of it."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(text))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        there = text if path == page else path.read_text(encoding="utf-8") if path.is_file() else ""
        if not (path == page or path.exists()) or (anchor and anchor not in anchors(there)):
            broken.append(target)
    return broken


def shell_commands(text: str) -> Iterator[list[str]]:
    """The arguments of every `medrobust` in the bash blocks."""
    for _, language, block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines() if language == "bash" else ():
            words = shlex.split(line, comments=True)
            while words and re.match(r"\w+=", words[0]):
                words.pop(0)
            if "-m" in words[:-1] and words[words.index("-m") + 1] == "medrobust":
                words = words[words.index("-m") + 1 :]
            if words[:1] == ["medrobust"]:
                yield words[1:]


def mentioned_commands(text: str) -> Iterator[list[str]]:
    """The arguments of every `medrobust ..` in running text."""
    for code in re.findall(r"`([^`]+)`", prose(text)):
        words = code.split()
        if words[0] == "medrobust" and len(words) > 1:
            yield words[1:]


def resolve(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the first words name, and the words after it."""
    command, rest = COMMANDS, list(words)
    while getattr(command, "commands", None) and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"no command {rest[0]!r} in: medrobust {' '.join(words)}"
        command = command.commands[rest.pop(0)]
    return command, rest


def check_mentioned(words: list[str]) -> None:
    """The command and each option it is mentioned with exist; `COMMAND` stands for any."""
    if words[0].isupper():
        return
    command, rest = resolve(words)
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    unknown = [word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]
    assert not unknown, f"no option {unknown[0]!r} in: medrobust {' '.join(words)}"


def check_shown(words: list[str]) -> None:
    """The arguments parse and nothing that is needed is left out; `...` stands for what the reader fills in."""
    check_mentioned(words)
    command, rest = resolve(words)
    shown = [word for word in rest if word != "..."]
    context = command.context_class(command, info_name="medrobust")
    found, left, _ = command.make_parser(context).parse_args(shown)
    assert not left, f"not understood: {left} in: medrobust {' '.join(words)}"
    missing = [
        option.opts[0].lstrip("-") for option in command.params if option.required and not found.get(option.name)
    ]
    assert "..." in rest or not missing, f"without {missing[0]!r}: medrobust {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_and_anchors_resolve(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_a_broken_link_or_anchor_is_found() -> None:
    text = "# One, `two.x`\n[a](#one-twox) [b](#two) [c](none.md) [d](index.md#no-such) [e](tutorial.md#1-run-the-demo)"
    assert broken_links(DOCS / "here.md", text) == ["#two", "none.md", "index.md#no-such"]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_shown_commands_parse(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for words in shell_commands(text):
        check_shown(words)
    for words in mentioned_commands(text):
        check_mentioned(words)


@pytest.mark.parametrize(
    ("shown", "refusal"),
    [
        ("certifi --data x", "no command 'certifi'"),
        ("data tick x", "no command 'tick'"),
        ("certify --data x --defence vote --out y --sigmas 1", "no option '--sigmas'"),
        ("certify --data x --out y", "without 'defence'"),
        ("report a b", "not understood"),
    ],
)
def test_a_command_that_does_not_exist_is_found(shown: str, refusal: str) -> None:
    (words,) = shell_commands(f"```bash\nOMP_NUM_THREADS=1 medrobust \\\n  {shown}  # why\n```")
    with pytest.raises(AssertionError, match=refusal):
        check_shown(words)


def test_commands_are_found_in_blocks_and_in_text() -> None:
    text = (
        "Try `medrobust\nattacks`.\n```bash\ntorchrun -n 4 -m medrobust fit ...\n```\n```python\nmedrobust = 1\n```\n"
    )
    assert list(shell_commands(text)) == [["fit", "..."]]
    assert list(mentioned_commands(text)) == [["attacks"]]
    shown = [words for page in PAGES for words in shell_commands(page.read_text(encoding="utf-8"))]
    assert {words[0] for words in shown} >= {"certify", "fit", "attack", "audit", "evaluate", "probe", "vqa", "poison"}


def test_the_reference_tables_are_those_of_the_fields_and_commands() -> None:
    made, places = tables(), Counter[str]()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert filled(text, made) == text, f"{page} is out of date; run: python -m medrobust.cli.reference docs"
        places.update(name for name in made if f"<!-- {name}: begin -->" in text)
    assert places == Counter(made.keys())


def test_every_field_of_a_row_and_of_settings_has_a_meaning() -> None:
    for name, text in tables().items():
        for line in text.splitlines() if name != "commands" else ():
            assert "|  |" not in "|".join(line.split("|")[:5]) + "|", f"{name}: {line}"


def settings_in(text: str) -> Iterator[dict[str, Any]]:
    """The YAML blocks that are experiments, or the parts or defences of one."""
    for _, language, block in FENCE.findall(text):
        values = yaml.safe_load(block) if language == "yaml" else None
        if isinstance(values, dict) and values.keys() & {"defences", *PARTS, "schema_version"}:
            yield values


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_shown_experiments_are_valid(page: Path) -> None:
    for values in settings_in(page.read_text(encoding="utf-8")):
        experiment = parse(Experiment, values, page.name)
        for choice in experiment.defences:
            make_defence(choice.defence, choice.settings)


def test_experiments_are_found_and_mistakes_in_them() -> None:
    found = [values for page in PAGES for values in settings_in(page.read_text(encoding="utf-8"))]
    assert len(found) >= 2
    assert any({"attack", "certify", "audit"} <= values.keys() for values in found)
    (values,) = settings_in("```yaml\ndefences: [vote]\ncertify: {sigma: 1}\n```\n```yaml\nname: cells\n```\n")
    with pytest.raises(ConfigError, match="did you mean 'sigmas'"):
        parse(Experiment, values, "here")


@pytest.mark.parametrize("page", [page for page in PAGES if "reference" in page.parts], ids=lambda page: page.stem)
def test_named_modules_and_members_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for module, members in re.findall(r"^::: (\S+)\n(?:    options: \{members: \[(.*?)\]\})?", text, flags=re.M):
        there = importlib.import_module(module)
        assert all(hasattr(there, name) for name in re.findall(r"\w+", members)), (module, members)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_shown_imports_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for module, names in re.findall(r"^from (medrobust\S*) import (.+)$", text, flags=re.M):
        there = importlib.import_module(module)
        assert [name for name in names.split(", ") if not hasattr(there, name)] == [], module


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_page_is_in_the_navigation_once() -> None:
    class Loader(yaml.SafeLoader):
        """Reads past the tags of mkdocs."""

    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]

    listed = pages(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"])
    assert Counter(listed) == Counter(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def fill() -> Any:
    spec = importlib.util.spec_from_file_location("product", ROOT / "benchmarks" / "product.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill


MARKS = ["promptsmooth tables", "promptsmooth++ tables", "robust towers", "robust prompts", "noise", "vqa", "findings",
         "large tables", "large cost", *(f"speed {part}" for part in
         ("encoder", "prompts", "stopping", "replay", "whole", "together"))]  # fmt: skip


@pytest.mark.parametrize("name", MARKS)
def test_each_table_of_a_script_has_one_place(name: str, tmp_path: Path) -> None:
    before = {page.name: page.read_text(encoding="utf-8") for page in (DOCS / "evidence").glob("*.md")}
    for page, text in before.items():
        (tmp_path / page).write_text(text, encoding="utf-8")
    fill()(name, "| new |", pages=tmp_path)
    changed = [page for page in before if (tmp_path / page).read_text(encoding="utf-8") != before[page]]
    assert len(changed) == 1
    old, new = before[changed[0]], (tmp_path / changed[0]).read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    assert new == f"{old.partition(begin)[0]}{begin}\n\n| new |\n\n{end}{old.partition(end)[2]}"


def test_a_table_without_a_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("<!-- half: begin -->\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="0 pages"):
        fill()("none", "", pages=tmp_path)
    with pytest.raises(SystemExit, match=r"no <!-- half: end -->"):
        fill()("half", "", pages=tmp_path)
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == "<!-- half: begin -->\n"
