"""Curves over the attacked share: means over seeds, intervals that more seeds do not narrow, page and table."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from medrobust.errors import ModelError, RunError
from medrobust.results.sections.probed import probed_markdown, upstream_markdown, write_probe_page
from medrobust.results.shares import share
from medrobust.results.upstream import (
    AttackUsed,
    ProbedModel,
    ProbeSummary,
    Spectrum,
    Upstream,
    averaged,
    by_upstream,
    mean_spectra,
    read_probe,
    read_upstream,
    upstream_curves,
)
from medrobust.results.values import write_sorted
from medrobust.smoothing.bounds import interval

TITLE = "pgd linf 1/255"


def model(noise: Upstream | None, clean: int, robust: int, values: tuple[float, ...]) -> ProbedModel:
    return ProbedModel(
        model="a/b", sha256="0" * 64, images=40, noise=noise, flags={"ran": ("rugged <loss>",)},
        clean_accuracy={"ran": share(clean, 40), "probe": share(clean - 1, 40)},
        robust_accuracy={"ran": {TITLE: share(robust, 40)}, "probe": {TITLE: share(0, 40)}},
        spectrum=Spectrum(values, 0.5),
    )  # fmt: skip


def found() -> dict[str, ProbedModel]:
    return {
        "clean-0": model(Upstream(0.0, 0), 30, 20, (0.6, 0.4)),
        "clean-1": model(Upstream(0.0, 1), 33, 21, (0.8, 0.2)),
        "noisy-0": model(Upstream(0.3, 0), 25, 10, (0.9, 0.1)),
        "builtin": model(None, 40, 40, (0.5, 0.5)),
    }


def result(models: dict[str, ProbedModel]) -> ProbeSummary:
    attack = AttackUsed("pgd", "linf", (1 / 255,))
    return ProbeSummary("cells & <b>", "test", attack, models, upstream_curves(models))


def test_a_point_is_the_mean_over_the_models_of_its_share() -> None:
    curves = upstream_curves(found())
    clean = curves["ran"]["clean"]
    assert [point.share for point in clean] == [0.0, 0.3]
    assert clean[0].value == pytest.approx(63 / 80)
    assert clean[0].models == (30 / 40, 33 / 40)
    assert [point.value for point in curves["ran"][TITLE]] == pytest.approx([41 / 80, 10 / 40])
    assert [point.value for point in curves["probe"]["clean"]] == pytest.approx([61 / 80, 24 / 40])


def test_its_interval_is_that_of_one_models_images_rounded_outwards() -> None:
    part = averaged([share(30, 40), share(33, 40)])  # 31.5 hits
    assert (part.low, part.high) == (interval(31, 40).low, interval(32, 40).high)
    same = averaged([share(30, 40)] * 5)
    assert (same.low, same.high) == (interval(30, 40).low, interval(30, 40).high)


def test_without_two_known_shares_there_is_no_curve() -> None:
    models = found()
    del models["noisy-0"]
    assert upstream_curves(models) == {}
    assert mean_spectra(models) == {}
    assert list(by_upstream(models)) == [0.0]
    assert upstream_markdown(result(models)) == ""


def test_spectra_are_averaged_over_a_share_if_they_are_of_one_length() -> None:
    spectra = mean_spectra(found())
    assert spectra[0.0].shares == pytest.approx((0.7, 0.3))
    assert spectra[0.3] == Spectrum((0.9, 0.1), 0.5)
    models = found()
    models["noisy-0"] = replace(models["noisy-0"], spectrum=Spectrum((1.0,), 0.5))
    assert mean_spectra(models) == {}


def test_share_and_seed_are_read_from_beside_the_model(tmp_path: Path) -> None:
    assert read_upstream(str(tmp_path)) is None
    assert read_upstream("builtin") is None
    (tmp_path / "noise.json").write_text(json.dumps({"share": 0.1, "seed": 3, "steps": 5}))
    assert read_upstream(str(tmp_path)) == Upstream(0.1, 3)
    for wrong in ("[1]", "{", '{"share": "much", "seed": 1}', '{"seed": 1}'):
        (tmp_path / "noise.json").write_text(wrong)
        with pytest.raises(ModelError, match=r"noise\.json does not say share and seed .* or remove it"):
            read_upstream(str(tmp_path))


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
    lines = [line for line in upstream_markdown(result(found())).splitlines() if line.startswith("| ")]
    assert lines[0] == "| recipe |  | 0 % | 30 % |"
    assert [line.split(" | ")[1] for line in lines[2:]] == ["clean", "clean", "robust linf 1/255", "robust linf 1/255"]
    assert lines[2].startswith("| ran | clean | 78.8 (")


def test_a_comparison_reads_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "probe.json"
    write_sorted(path, result(found()).to_json())
    assert read_probe(path) == result(found())
    path.write_text("{}")
    with pytest.raises(RunError, match=r"probe\.json cannot be read \(data: .* run `medrobust probe`"):
        read_probe(path)


def test_the_table_has_a_line_a_model_and_recipe() -> None:
    lines = [line for line in probed_markdown(result({"one": found()["clean-0"]})).splitlines() if line[:2] == "| "]
    assert lines[0] == "| model | recipe | clean | robust linf 1/255 |"
    assert [line.split(" | ")[:2] for line in lines[2:]] == [["| one", "ran"], ["| one", "probe"]]
    assert lines[2].split(" | ")[2].startswith("75.0 (")  # 30 of 40
