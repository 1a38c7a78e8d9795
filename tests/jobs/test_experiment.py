from pathlib import Path

import pytest
import yaml

from medrobust.errors import ConfigError
from medrobust.jobs.experiment import Choice, Experiment, load_experiment, parse_choice
from medrobust.settings import parse, to_yaml


def written(folder: Path, text: str) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_yaml_round_trip(tmp_path: Path) -> None:
    experiment = Experiment(
        data="cells", sigmas=(0.1, 0.5), defences=(Choice(defence="pool"), Choice(defence="coop", base="pool"))
    )
    assert load_experiment(written(tmp_path, to_yaml(experiment))) == experiment


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("zero-shot", {"defence": "zero-shot", "settings": {}, "from_state": None}),
        ("coop=a=b.safetensors", {"defence": "coop", "settings": {}, "from_state": "a=b.safetensors"}),
        ("promptsmooth:combined", {"defence": "promptsmooth", "settings": {"mode": "combined"}, "from_state": None}),
    ],
)
def test_a_defence_as_typed(text: str, choice: dict) -> None:
    assert parse_choice(text) == choice
    assert parse(Experiment, {"defences": [text]}, "here").defences[0] == Choice(**choice)


def test_what_tables_call_a_defence() -> None:
    assert Choice(defence="pool").name == "pool"
    assert Choice(defence="promptsmooth", settings={"mode": "few-shot"}).name == "promptsmooth:few-shot"
    assert Choice(defence="promptsmooth", name="ours", settings={"mode": "few-shot"}).name == "ours"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sigmass: [0.25]", "unknown key 'sigmass' (did you mean 'sigmas'?)"),
        ("defences: [{name: coop, setings: {}}]", "'defences.0.setings' (did you mean 'settings'?)"),
        ("defences: [coop, coop]", "two defences are called 'coop'"),
        ("sigmas: [0.25, 0.25]", "a sigma is named twice"),
        ("sigmas: []", "sigmas"),
        ("limit: 0", "limit"),
        ("schema_version: 3", "schema_version"),
        ("- 1", "must hold keys and values"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(written(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no experiment file"):
        load_experiment(tmp_path / "none.yaml")


def test_the_demo_is_an_experiment() -> None:
    import medrobust

    path = Path(medrobust.__file__).with_name("demo.yaml")
    demo = load_experiment(path)
    labels = [choice.name for choice in demo.defences]
    assert labels[:6] == ["zero-shot", "few-shot", "combined", "pool", "vote", "distill"]
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["data"] == "phantom"
