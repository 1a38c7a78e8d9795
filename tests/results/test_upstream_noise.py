"""Curves over the attacked share: means over seeds, intervals that more seeds do not narrow, page and table."""

import json
from pathlib import Path
from typing import Any

import pytest

from medrobust.errors import ModelError
from medrobust.results.report.probed import noise_markdown, write_probe_page
from medrobust.results.tables import share
from medrobust.results.upstream import averaged, by_share, mean_spectra, noise_curves, upstream_noise
from medrobust.smoothing.bounds import interval

TITLE = "pgd linf 1/255"


def model(noise: dict[str, Any] | None, clean: int, robust: int, values: list[float]) -> dict[str, Any]:
    return {
        "model": "a/b", "sha256": "0" * 64, "images": 40, "noise": noise, "flags": {"ran": ["rugged <loss>"]},
        "clean_accuracy": {"ran": share(clean, 40), "probe": share(clean - 1, 40)},
        "robust_accuracy": {"ran": {TITLE: share(robust, 40)}, "probe": {TITLE: share(0, 40)}},
        "spectrum": {"shares": values, "entropy": 0.5},
    }  # fmt: skip


def found() -> dict[str, Any]:
    return {
        "clean-0": model({"share": 0.0, "seed": 0}, 30, 20, [0.6, 0.4]),
        "clean-1": model({"share": 0.0, "seed": 1}, 33, 21, [0.8, 0.2]),
        "noisy-0": model({"share": 0.3, "seed": 0}, 25, 10, [0.9, 0.1]),
        "builtin": model(None, 40, 40, [0.5, 0.5]),
    }


def result(models: dict[str, Any]) -> dict[str, Any]:
    attack = {"name": "pgd", "norm": "linf", "eps": [1 / 255]}
    return {
        "schema_version": 1, "data": "cells & <b>", "split": "test", "attack": attack, "models": models,
        "noise_curves": noise_curves(models), "notice": "not a medical device",
    }  # fmt: skip


def test_a_point_is_the_mean_over_the_models_of_its_share() -> None:
    curves = noise_curves(found())
    clean = curves["ran"]["clean"]
    assert [point["share"] for point in clean] == [0.0, 0.3]
    assert clean[0]["value"] == pytest.approx(63 / 80)
    assert clean[0]["models"] == [30 / 40, 33 / 40]
    assert [point["value"] for point in curves["ran"][TITLE]] == pytest.approx([41 / 80, 10 / 40])
    assert [point["value"] for point in curves["probe"]["clean"]] == pytest.approx([61 / 80, 24 / 40])


def test_its_interval_is_that_of_one_models_images_rounded_outwards() -> None:
    part = averaged([share(30, 40), share(33, 40)])  # 31.5 hits
    assert (part["low"], part["high"]) == (interval(31, 40).low, interval(32, 40).high)
    same = averaged([share(30, 40)] * 5)
    assert (same["low"], same["high"]) == (interval(30, 40).low, interval(30, 40).high)


def test_without_two_known_shares_there_is_no_curve() -> None:
    models = found()
    del models["noisy-0"]
    assert noise_curves(models) == {}
    assert mean_spectra(models) == {}
    assert list(by_share(models)) == [0.0]
    assert noise_markdown(result(models)) == ""


def test_spectra_are_averaged_over_a_share_if_they_are_of_one_length() -> None:
    spectra = mean_spectra(found())
    assert spectra[0.0]["shares"] == pytest.approx([0.7, 0.3])
    assert spectra[0.3] == {"shares": [0.9, 0.1], "entropy": 0.5}
    models = found()
    models["noisy-0"]["spectrum"]["shares"] = [1.0]
    assert mean_spectra(models) == {}


def test_share_and_seed_are_read_from_beside_the_model(tmp_path: Path) -> None:
    assert upstream_noise(str(tmp_path)) is None
    assert upstream_noise("builtin") is None
    (tmp_path / "noise.json").write_text(json.dumps({"share": 0.1, "seed": 3, "steps": 5}))
    assert upstream_noise(str(tmp_path)) == {"share": 0.1, "seed": 3}
    for wrong in ("[1]", "{", '{"share": "much", "seed": 1}', '{"seed": 1}'):
        (tmp_path / "noise.json").write_text(wrong)
        with pytest.raises(ModelError, match=r"noise\.json does not say share and seed .* or remove it"):
            upstream_noise(str(tmp_path))


def test_the_page_is_whole_escaped_and_the_same_twice(tmp_path: Path) -> None:
    page = write_probe_page(tmp_path, result(found()))
    text = page.read_text(encoding="utf-8")
    assert "cells &amp; &lt;b&gt;" in text
    assert "rugged &lt;loss&gt;" in text
    assert "<b>&" not in text
    assert text.count("<svg") == 3  # clean, attacked, spectrum
    assert "30 % attacked" in text
    assert "78.8" in text  # 63 of 80
    assert (tmp_path / "noise.svg").read_text().count("<svg") == 1
    kept = page.read_bytes()
    write_probe_page(tmp_path, result(found()))
    assert page.read_bytes() == kept


def test_the_page_without_noise_shows_the_models_alone(tmp_path: Path) -> None:
    text = write_probe_page(tmp_path, result({"builtin": found()["builtin"]})).read_text(encoding="utf-8")
    assert "<svg" not in text
    assert "builtin" in text
    assert not (tmp_path / "noise.svg").exists()


def test_the_table_has_a_line_a_recipe_and_column() -> None:
    lines = [line for line in noise_markdown(result(found())).splitlines() if line.startswith("| ")]
    assert lines[0] == "| recipe |  | 0 % | 30 % |"
    assert [line.split(" | ")[1] for line in lines[2:]] == ["clean", "clean", "robust linf 1/255", "robust linf 1/255"]
    assert lines[2].startswith("| ran | clean | 78.8 (")
