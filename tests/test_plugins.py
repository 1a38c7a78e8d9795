"""Packages add attacks, defences and models: those that docs/howto/plugins.md shows, and broken ones."""

import importlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from attacks.test_cost import Meter, counted, steady

from medrobust.errors import PluginError
from medrobust.plugins import Registry

HEAD = "from test_plugins import Word\n"
PAGE = Path(__file__).parents[1] / "docs" / "howto" / "plugins.md"


class Word(NamedTuple):
    text: str
    length: int = 1


def install(folder: Path, package: str, points: Mapping[str, Mapping[str, str]], files: Mapping[str, str]) -> None:
    """What an installer leaves behind: the files, and a folder that tells what they are."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    about = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in of.items()) for group, of in points.items()]
    (about / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package that the documentation shows, as it stands there."""
    folder = tmp_path_factory.mktemp("acme")
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w+)\n# (\S+)\n(.*?)```", text, flags=re.S)
    project = next(tomllib.loads(body) for language, name, body in blocks if language == "toml")["project"]
    files = {name: body for language, name, body in blocks if language == "python"}
    assert len(files) == 3
    install(folder, project["name"], project["entry-points"], files | {"acme_robust/__init__.py": ""})
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model in the format of Acme."""
    from safetensors.torch import load_file, save_file

    from medrobust.models import BUILTIN

    folder = shutil.copytree(BUILTIN, tmp_path_factory.mktemp("weights") / "acme")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file({f"network.{name}": value for name, value in tensors.items()}, folder / "acme.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "acme"}))
    return folder


def python(code: str, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], env=environment, capture_output=True, text=True, check=False
    )


USE_ALL = """
import contextlib, io, json, sys
import torch
from medrobust.attacks import make_attack
from medrobust.cli import app
from medrobust.defences import make_defence
from medrobust.models import load

folder, out = sys.argv[1:]
torch.set_num_threads(1)

def said(*words):
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        code = app([*words, "--json"], standalone_mode=False)
    assert not code, (words, code)
    return json.loads(stdout.getvalue())

model, usual = load(f"acme-clip={folder}"), load("builtin")
image = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
same = torch.equal(model.encode_image(image), usual.encode_image(image))
by_config = torch.equal(load(folder).encode_image(image), usual.encode_image(image))
listed = {kind: [one["name"] for one in said(kind)] for kind in ("attacks", "defences", "models")}
data = ["--data", "phantom", "--limit", "1", "--threads", "1", "--model", f"acme-clip={folder}"]
data += ["--defence", "acme-blur"]
attack = ["--attack", "acme-brightness", "--set", "acme-brightness.tries=3", "--attack", "square", "--set", "queries=5"]
attacked = said("attack", *data, *attack, "--eps", "8/255", "--out", f"{out}/attacked")
certified = said("certify", *data, "--sigma", "0.25", "--n", "64", "--out", f"{out}/certified")
print(json.dumps({
    "same": same, "by config": by_config, "listed": listed, "attacked": attacked, "certified": certified,
    "made": [
        repr(make_attack("acme-brightness", {"tries": 2})), repr(make_defence("acme-blur", {"reach": 2}).settings)
    ],
}))
"""


def test_the_documented_package_works_from_every_command(acme: Path, weights: Path, tmp_path: Path) -> None:
    done = python(USE_ALL, acme, weights, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["same"]
    assert found["by config"]
    assert {kind: names[-1] for kind, names in found["listed"].items()} == {
        "attacks": "acme-brightness", "defences": "acme-blur", "models": "acme-clip",
    }  # fmt: skip
    assert found["made"] == ["Brightness(tries=2)", "Blur(reach=2)"]
    assert found["attacked"]["attack"]["name"] == "acme-brightness(tries=3)+square(queries=5)"
    assert found["attacked"]["attack"]["defences"] == ["acme-blur"]
    assert found["certified"]["images"] == 1
    assert f"with acme-clip={weights} under acme-blur: acme-brightness(tries=3)" in done.stderr
    assert f"at most {1 + 2 * 3 + 1 + 1 + 5 + 1 + 3} encoder passes" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "attacked" / "attacked.jsonl").read_text().splitlines()]
    assert [row["defence"] for row in rows] == ["acme-blur"]


NOTHING_YET = """
import sys
import medrobust
from medrobust.cli import app
app(["--help"], standalone_mode=False)
assert "medrobust.plugins" not in sys.modules
from medrobust.attacks import ATTACKS
ATTACKS["pgd"]
assert not any(name.startswith("acme") for name in sys.modules)
ATTACKS["acme-brightness"]
assert "acme_robust.attack" in sys.modules and "acme_robust.defence" not in sys.modules
"""


def test_no_plugin_is_imported_before_it_is_asked_for(acme: Path) -> None:
    done = python(NOTHING_YET, acme)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_plugin_that_imports_medrobust_may_be_imported_first(acme: Path) -> None:
    done = python("import acme_robust.attack, acme_robust.defence, acme_robust.model", acme)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_documented_attack_costs_what_it_says(acme: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(acme)
    attack = importlib.import_module("acme_robust.attack").Brightness(tries=5)
    for norm in ("linf", "l2"):
        meter = Meter()
        assert counted(attack, steady(3, meter), meter, norm) == attack.cost(3) == 11


def test_the_documented_attack_finds_what_brightness_alone_can(acme: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of all pixels decides at 0.5: images nearer than eps break, in the direction of the border."""
    from toys import half_space

    from medrobust.attacks import Ball

    monkeypatch.syspath_prepend(acme)
    attack = importlib.import_module("acme_robust.attack").Brightness(tries=4)
    count = 3 * 4 * 4
    images = torch.stack([torch.full((3, 4, 4), value) for value in (0.46, 0.43, 0.54, 0.57)])
    classifier = half_space(torch.full((count,), 1 / count**0.5), 0.5 * count**0.5)
    labels = torch.tensor([0, 0, 1, 1])
    for ball in (Ball("linf", 0.05), Ball("l2", 0.05 * count**0.5)):
        found = attack(classifier, images, labels, ball=ball, generator=torch.Generator())
        assert (classifier(found).argmax(dim=1) != labels).tolist() == [True, False, True, False]
        assert bool(ball.contains(found, images).all())


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("words_")]:
        del sys.modules[name]


@pytest.fixture
def registry(site: Path) -> Callable[[], Registry[Any]]:
    """A registry of words, as it is before anyone has asked."""
    return lambda: Registry("words.test", "word", Word, {"own": Word("own")})


def offer(site: Path, package: str, name: str, code: str) -> None:
    module = f"words_{package}"
    install(site, package, {"words.test": {name: f"{module}:entry"}}, {f"{module}.py": f"{HEAD}{code}\n"})


def test_lines_of_packages_stand_after_those_of_medrobust(site: Path, registry: Any) -> None:
    for package, name in (("b", "zebra"), ("a", "ant")):
        offer(site, package, name, f"entry = Word({name!r}, 4)")
    words = registry()
    assert list(words) == words.keys() == ["own", "ant", "zebra"]
    assert len(words) == 3
    assert dict(words.items()) == {"own": Word("own"), "ant": Word("ant", 4), "zebra": Word("zebra", 4)}
    assert words.values() == [Word("own"), Word("ant", 4), Word("zebra", 4)]
    assert "ant" in words
    assert "bee" not in words
    assert words.get("bee") is None
    with pytest.raises(KeyError, match="bee"):
        words["bee"]
    words["bee"] = Word("bee")
    assert list(words) == ["own", "bee", "ant", "zebra"]
    del words["bee"]
    assert "bee" not in words


BROKEN = {
    "not there": ("snapped", "import nothing_of_this_name\nentry = Word('a')",
                  "which cannot be loaded (ModuleNotFoundError: No module named 'nothing_of_this_name')"),
    "no entry": ("snapped", "other = Word('a')", "which cannot be loaded (AttributeError: module 'words_acme' has no"),
    "bad syntax": ("snapped", "entry = = 1", "which cannot be loaded (SyntaxError: "),
    "another type": ("snapped", "entry = 3", "which is of type int, must be test_plugins.Word"),
    "a wrong field": ("snapped", "entry = Word('a', 'long')", "whose field length is wrong (input should be a valid"),
    "a name with signs": ("two+words", "entry = Word('a')", "whose name must be made of letters"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_one_sentence_and_the_rest_works(
    site: Path, registry: Any, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    name, code, said = BROKEN[case]
    offer(site, "acme", name, code)
    offer(site, "sound", "fine", "entry = Word('fine')")
    words = registry()
    with caplog.at_level(logging.WARNING, "medrobust"):
        assert list(words) == list(words) == ["own", "fine"]
    (record,) = caplog.records
    sentence = record.getMessage().removeprefix("medrobust: ")
    assert sentence.startswith(f"the package acme 1.0 offers the word {name!r}, {said}")
    assert len(sentence.splitlines()) == 1
    for asked in (words, registry()):
        with pytest.raises(PluginError) as error:
            asked[name]
        assert str(error.value) == sentence
        assert name not in asked
    assert words["fine"] == Word("fine")


def test_a_name_that_is_taken_is_refused_by_name(site: Path, registry: Any, caplog: pytest.LogCaptureFixture) -> None:
    offer(site, "acme", "own", "entry = Word('theirs')")
    words = registry()
    with caplog.at_level(logging.WARNING, "medrobust"):
        assert words["own"] == Word("own")
        assert list(words) == ["own"]
    (record,) = caplog.records
    assert "the package acme 1.0 offers the word 'own', a name that medrobust has itself; it is left out" in str(
        record.getMessage()
    )
    assert "words_acme" not in sys.modules


def test_two_packages_with_one_name_are_both_named(site: Path, registry: Any) -> None:
    for package in ("acme", "bolt"):
        offer(site, package, "same", "entry = Word('same')")
    with pytest.raises(PluginError, match=r"^the packages acme 1\.0 and bolt 1\.0 offer the word 'same', and a name "):
        registry()["same"]


def test_a_line_that_calls_itself_otherwise_is_refused(site: Path) -> None:
    from medrobust.models import Entry

    code = "from dataclasses import replace\nfrom medrobust.models import MODELS\n"
    offer(site, "acme", "plop", code + "entry = replace(MODELS['plip'], name='x')")
    with pytest.raises(PluginError, match="which calls itself 'x'; give both the same name"):
        Registry("words.test", "model", Entry, {})["plop"]


def test_a_broken_attack_and_defence_are_refused_in_a_sentence(tmp_path: Path) -> None:
    files = {"acme_bad.py": "from medrobust.attacks import AttackEntry\nentry = AttackEntry('a', 'b', print)\n"}
    install(tmp_path, "acme-bad", {"medrobust.attacks": {"bad": "acme_bad:entry", "pgd": "acme_bad:entry"}}, files)
    code = "from medrobust.cli import main; main()"
    done = python(code, tmp_path, "attack", "--data", "phantom", "--attack", "bad", "--out", tmp_path / "run")
    assert done.returncode == 2, done.stderr
    taken, refused = done.stderr.splitlines()
    assert taken.startswith("medrobust: the package acme-bad 1.0 offers the attack 'pgd', a name that medrobust has")
    assert refused.startswith(
        "medrobust: the package acme-bad 1.0 offers the attack 'bad', whose field default is wrong"
    )
    done = python(code, tmp_path, "attacks", "--json")
    assert done.returncode == 0
    assert "bad" not in [one["name"] for one in json.loads(done.stdout)]
    assert len(done.stderr.splitlines()) == 2
