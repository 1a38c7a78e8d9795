"""Heads compared on two models: one table, the same after an interruption, and the spectrum of the features."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from medrobust.attacks import ATTACKS, AttackError
from medrobust.attacks.pgd import Pgd
from medrobust.cli import app
from medrobust.cli.probe import _told
from medrobust.errors import ConfigError
from medrobust.jobs.attack import work
from medrobust.jobs.probe import RECIPES, frozen_features, names_of, recipes_of, spectrum
from medrobust.models import load
from medrobust.results.rows.attacked import read_attacked
from medrobust.results.upstream import Spectrum
from medrobust.seeds import stream
from medrobust.smoothing.bounds import Interval
from medrobust.words import percent


@pytest.fixture(scope="module", autouse=True)
def _few_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ATTACKS, "pgd", ATTACKS["pgd"]._replace(default=Pgd(steps=3)))
        yield


@pytest.fixture(scope="module")
def words(
    checkpoint: Path, taught_checkpoint: Path, picture_folder: Path, task_file: Path, tmp_path_factory: Any
) -> list[object]:
    folder, given = tmp_path_factory.mktemp("models"), []
    for name, path in (("random", checkpoint), ("taught", taught_checkpoint)):
        (folder / name).symlink_to(path)
        given += ["--model", folder / name]
    given += ["--data", picture_folder, "--task", task_file, "--limit", 3, "--threads", 1, "--batch", 2]
    given += ["--set", "epochs=20", "--set", "batch=9", "--set", "linear-probe.lr=0.05", "--set", "ran.eps=4/255"]
    given += ["--set", "ran.attack_steps=1", "--set", "ran.epochs=3", "--recipe", "linear-probe", "--recipe", "ran"]
    return [*given, "--attack", "pgd", "--eps", "60/255", "--eps", "8/255"]


@pytest.fixture(scope="module")
def finished(words: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    done = probe(words, out)
    assert done.exit_code == 0, done.output
    return out


def probe(words: list[object], out: Path, *more: object) -> Result:
    return CliRunner().invoke(app, ["probe", *map(str, [*words, "--out", out, *more])])


def test_one_table_says_clean_and_attacked_apart(finished: Path) -> None:
    text, found = (finished / "probe.md").read_text(), json.loads((finished / "probe.json").read_text())
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert lines[0] == ["model", "recipe", "clean", "robust linf 8/255", "robust linf 60/255"]
    assert [line[:2] for line in lines[2:]] == [
        ["random", "linear-probe"], ["random", "ran"], ["taught", "linear-probe"], ["taught", "ran"],
    ]  # fmt: skip
    for model, recipe, *cells in lines[2:]:
        rows = [row for row in read_attacked(finished / model / "attacked.jsonl") if row.defence == recipe]
        assert len(rows) == 6
        of = found["models"][model]
        shares = [of["clean_accuracy"][recipe]]
        shares += [of["robust_accuracy"][recipe][f"pgd linf {eps}/255"] for eps in (8, 60)]
        hits = [sum(row.broken_by != "clean" for row in rows if row.eps < 0.1)]
        hits += [sum(row.broken_by is None for row in rows if (row.eps < 0.1) == small) for small in (True, False)]
        assert [share["hits"] for share in shares] == hits
        assert cells == [percent(Interval(**share)) for share in shares]
    assert found["models"]["taught"]["clean_accuracy"]["linear-probe"]["value"] == 1
    assert found["models"]["random"]["sha256"] != found["models"]["taught"]["sha256"]


def test_interrupted_on_the_second_model_it_goes_on(
    words: list[object], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = work.attack_batch, []

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(work, "attack_batch", interrupted)
    done = probe(words, tmp_path / "run")
    assert done.exit_code == 130, done.output
    assert not (tmp_path / "run" / "probe.json").exists()
    monkeypatch.setattr(work, "attack_batch", real)
    done = probe(words, tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((finished / "probe.json").read_text())
    for name in ("probe.json", "probe.md", "probe.html", "taught/attacked.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def test_the_spectrum_is_that_of_the_frozen_models_test_features(finished: Path, words: list[object]) -> None:
    from medrobust.data import load_task, open_dataset

    text = [str(word) for word in words]
    model = load(text[3])
    data = open_dataset(text[5], load_task(text[7]), preprocess=model.preprocess, limit=3)
    features = frozen_features(model, data, 2)
    torch.testing.assert_close(features, model.encode_image(data.images()), atol=1e-5, rtol=1e-5)
    found = json.loads((finished / "probe.json").read_text())["models"]["taught"]["spectrum"]["shares"]
    values = np.sqrt(np.linalg.eigvalsh((features @ features.T).double().numpy()))[::-1]
    np.testing.assert_allclose(found, values / values.sum(), atol=1e-4)


def test_a_spectrum_in_closed_form() -> None:
    turned = torch.linalg.qr(torch.randn(7, 4, generator=stream(0, "turned")))[0]
    found = spectrum(turned * torch.tensor([6.0, 2.0, 1.0, 1.0]))
    assert found.shares == pytest.approx([0.6, 0.2, 0.1, 0.1], abs=1e-6)
    assert found.entropy == pytest.approx(-sum(p * np.log(p) for p in (0.6, 0.2, 0.1, 0.1)), abs=1e-5)
    assert spectrum(torch.zeros(3, 2)) == Spectrum((0.0, 0.0), 0.0)


def test_a_setting_goes_to_all_that_have_it_or_to_one() -> None:
    chosen = recipes_of(RECIPES, {"full-fine-tune.lr": 3, "lr": 2, "eps": "1/255"})
    assert {choice.name: choice.settings for choice in chosen} == {
        "linear-probe": {"lr": 2}, "full-fine-tune": {"lr": 3}, "nmtune": {"lr": 2, "eps": "1/255"},
        "ran": {"lr": 2, "eps": "1/255"},
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"^no recipe 'rann' \(did you mean 'ran'\?\); there are linear-probe, mlp-"):
        recipes_of(["rann"], {})
    with pytest.raises(ConfigError, match=r"^none of ran has a setting 'epoch' \(did you mean 'epochs'\?\)"):
        recipes_of(["ran"], {"epoch": 1})
    with pytest.raises(ConfigError, match="no recipe 'tecoa'"):
        recipes_of(["tecoa"], {})


def test_heads_and_attacks_are_set_by_one_option() -> None:
    texts = ["lr=2", "ran.eps=4/255", "steps=5", "square.queries=9", "restarts=2", "pgd.restarts=1"]
    heads, attacks = _told(["linear-probe", "ran"], ["pgd", "square"], texts)
    assert heads == {"linear-probe.lr": 2, "ran.lr": 2, "ran.eps": "4/255"}
    assert attacks == {"pgd": {"steps": 5, "restarts": 1}, "square": {"queries": 9, "restarts": 2}}
    with pytest.raises(ConfigError, match=r"^none of ran, pgd has a setting 'epoch' \(did you mean 'epochs'\?\)"):
        _told(["ran"], ["pgd"], ["epoch=1"])
    with pytest.raises(AttackError, match="no attack 'pdg'"):
        _told(["ran"], ["pdg"], [])


def test_two_models_of_one_name_are_refused(words: list[object], tmp_path: Path) -> None:
    assert names_of(["builtin", "vinid/plip"]) == ["builtin", "vinid-plip"]
    done = probe(words, tmp_path / "run", "--model", str(words[1]))
    assert done.exit_code == 2
    assert "two models are called random" in done.stderr
    assert not (tmp_path / "run").exists()
