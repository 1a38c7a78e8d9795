"""One sentence for everything that can be wrong with a checkpoint of each family, naming what it is."""

import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import WRITERS, Weights
from conch_stand_in import Words, package, write_conch
from safetensors.torch import load_file, save_file

from medrobust.errors import ModelError
from medrobust.models import load

Write = Callable[[str], Path]


@pytest.fixture
def written(tmp_path: Path, checkpoint: Path) -> Write:
    """The folder of a family's checkpoint, to be broken."""

    def write(name: str) -> Path:
        WRITERS[name][0](tmp_path, checkpoint)
        return tmp_path

    return write


def spec_of(name: str, folder: Path) -> str:
    return WRITERS[name][1].format(folder)


def file_of(folder: Path) -> Path:
    (file,) = (file for suffix in ("safetensors", "bin", "pt") for file in folder.glob(f"*.{suffix}"))
    return file


def change(folder: Path, edit: Callable[[Weights], Weights]) -> None:
    file = file_of(folder)
    if file.suffix == ".safetensors":
        save_file(edit(load_file(file)), file, {"format": "pt"})
    else:
        torch.save(edit(torch.load(file, weights_only=True)), file)


def configure(folder: Path, part: str, **changes: Any) -> None:
    path = folder / "open_clip_config.json"
    said = json.loads(path.read_text())
    (said["model_cfg"][part] if part in ("vision_cfg", "text_cfg") else said[part]).update(changes)
    path.write_text(json.dumps(said))


LAST = {
    "quiltnet": "visual.transformer.resblocks.1.mlp.c_proj.bias",
    "chexzero": "text_projection",
    "biomedclip": "visual.trunk.blocks.1.attn.qkv.weight",
    "medclip": "text_model.model.encoder.layer.2.output.dense.bias",
    "siglip": "text_model.head.weight",
}
HEADS = {
    "quiltnet": "visual.proj",
    "chexzero": "ln_final.bias",
    "biomedclip": "text.proj.2.weight",
    "medclip": "vision_model.projection_head.weight",
    "siglip": "logit_scale",
}
KEYS = [(name, key) for keys in (LAST, HEADS) for name, key in keys.items()]


@pytest.mark.parametrize(("name", "key"), KEYS)
def test_a_missing_weight_is_named_as_the_file_has_it(written: Write, name: str, key: str) -> None:
    folder = written(name)
    change(folder, lambda weights: {one: value for one, value in weights.items() if one != key})
    with pytest.raises(ModelError, match=rf"missing keys in its weights: {re.escape(key)};"):
        load(spec_of(name, folder))


@pytest.mark.parametrize(
    ("name", "key"),
    [(name, "decoder.extra") for name in WRITERS]
    + [
        ("biomedclip", "visual.trunk.reg_token"),
        ("biomedclip", "text.transformer.extra"),
        ("biomedclip", "text.proj.1.weight"),
    ]
    + [("medclip", "vision_model.model.extra"), ("medclip", "text_model.model.extra")],
)
def test_an_unexpected_weight_is_named_as_the_file_has_it(written: Write, name: str, key: str) -> None:
    folder = written(name)
    change(folder, lambda weights: weights | {key: torch.zeros(2)})
    with pytest.raises(ModelError, match=rf"unexpected keys in its weights: {re.escape(key)};"):
        load(spec_of(name, folder))


@pytest.mark.parametrize(
    ("name", "key", "shape", "sentence"),
    [
        ("quiltnet", "visual.ln_pre.weight", (7,), r"pre_layrnorm.weight has shape \[7\], not \[128\];"),
        ("chexzero", "visual.transformer.resblocks.0.attn.in_proj_weight", (5, 128),
         r"in_proj_weight has shape \[5, 128\], which cannot be cut into 3 parts"),
        ("biomedclip", "visual.head.proj.weight", (24, 7), r"head.proj.weight has shape \[24, 7\], not \[24, 128\];"),
        ("biomedclip", "logit_scale", (2,), r"logit_scale has shape \[2\], not \[\];"),
        ("medclip", "text_model.projection_head.weight", (25, 128),
         r"text_model.projection_head.weight has shape \[25, 128\], not \[24, 128\];"),
        ("biomedclip", "text.transformer.embeddings.word_embeddings.weight", (5,),
         r"text.transformer.embeddings.word_embeddings.weight has shape \[5\], expected 2 sides"),
        ("chexzero", "positional_embedding", (77, 128, 1), r"positional_embedding has shape .*, expected 2 sides"),
        ("medclip", "vision_model.model.embeddings.patch_embeddings.projection.weight", (3,),
         r"vision_model.model.embeddings.patch_embeddings.projection.weight has shape \[3\], expected 4 sides"),
        ("siglip", "logit_bias", (3,), r"logit_bias has shape \[3\], not \[1\];"),
    ],
)  # fmt: skip
def test_a_misshapen_weight_is_named(written: Write, name: str, key: str, shape: tuple, sentence: str) -> None:
    folder = written(name)
    change(folder, lambda weights: weights | {key: torch.zeros(shape)})
    with pytest.raises(ModelError, match=sentence):
        load(spec_of(name, folder))


@pytest.mark.parametrize("name", ["quiltnet", "siglip"])
def test_a_safetensors_file_cut_short_is_refused(written: Write, name: str) -> None:
    folder = written(name)
    file_of(folder).write_bytes(file_of(folder).read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"is not a complete safetensors file"):
        load(spec_of(name, folder))


@pytest.mark.parametrize(
    ("name", "part", "changes", "sentence"),
    [
        ("quiltnet", "vision_cfg", {"width": 192}, r"mismatched keys in its weights: .* not \[192\]"),
        ("quiltnet", "vision_cfg", {"layers": 3}, r"missing keys in its weights: visual.transformer.resblocks.2"),
        ("quiltnet", "text_cfg", {"layers": 1}, r"unexpected keys in its weights: transformer.resblocks.1"),
        ("quiltnet", "text_cfg", {"vocab_size": 10}, r"mismatched keys .*token_embedding.weight has shape"),
        ("quiltnet", "vision_cfg", {"image_size": 24}, r"embedding.weight has shape \[5, 128\], not \[10, 128\]"),
        ("quiltnet", "vision_cfg", {"attentional_pool": True}, r"vision_cfg has attentional_pool; .* plain CLIPs"),
        ("quiltnet", "vision_cfg", {"pool_type": "avg"}, r"vision_cfg has pool_type; of open_clip's models"),
        ("quiltnet", "text_cfg", {"heads": 3}, r"its sizes make no CLIP: .* not a multiple of .* heads \(3\)"),
        ("quiltnet", "preprocess_cfg", {"std": [0, 1, 1]}, r"preprocess_cfg of .* is not read; .* positive stds"),
        ("biomedclip", "model_cfg", {"embed_dim": "wide"}, r"open_clip_config.json cannot be understood: ValueError"),
        ("quiltnet", "text_cfg", {"no_causal_mask": True}, r"text_cfg has no_causal_mask; of open_clip's models"),
        ("quiltnet", "vision_cfg", {"layers": [3, 4, 6, 3]}, r"vision_cfg has the layers of a ResNet"),
        ("quiltnet", "vision_cfg", {"width": "wide"}, r"open_clip_config.json cannot be understood: TypeError"),
        ("quiltnet", "preprocess_cfg", {"resize_mode": "longest"}, r"preprocess_cfg of .*longest.* is not read"),
        ("quiltnet", "preprocess_cfg", {"mean": [0.5]}, r"preprocess_cfg of .* is not read; .* three means"),
        ("biomedclip", "vision_cfg", {"timm_model_name": "vit_so400m_patch14_224"}, r"says timm_model_name 'vit_so4"),
        ("biomedclip", "vision_cfg", {"timm_pool": "avg"}, r"says timm_pool 'avg'; read are timm's plain ViTs"),
        ("biomedclip", "vision_cfg", {"timm_proj": "mlp"}, r"says timm_proj 'mlp'"),
        ("biomedclip", "vision_cfg", {"timm_proj_bias": True}, r"says timm_proj_bias True"),
        ("biomedclip", "text_cfg", {"hf_model_name": "gpt2"}, r"says hf_model_name 'gpt2'"),
        ("biomedclip", "text_cfg", {"hf_pooler_type": "mean_pooler"}, r"says hf_pooler_type 'mean_pooler'"),
        ("biomedclip", "text_cfg", {"hf_proj_type": "none"}, r"says hf_proj_type 'none'"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_not_the_weights(
    written: Write, name: str, part: str, changes: dict, sentence: str
) -> None:
    folder = written(name)
    configure(folder, part, **changes)
    with pytest.raises(ModelError, match=sentence):
        load(spec_of(name, folder))


def test_what_is_usual_may_be_written_out(written: Write) -> None:
    folder = written("quiltnet")
    before = load(str(folder)).encode_text(["red"])
    configure(folder, "vision_cfg", pool_type="tok", ls_init_value=None, output_tokens=True, patch_dropout=0.5)
    configure(folder, "text_cfg", pool_type="argmax", proj_type="linear", hf_tokenizer_name="somebody/words")
    assert torch.equal(load(str(folder)).encode_text(["red"]), before)


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"model_cfg": {"vision_cfg": 3, "text_cfg": {}}}'])
def test_a_configuration_that_is_none_of_open_clips(written: Write, text: str) -> None:
    folder = written("quiltnet")
    (folder / "open_clip_config.json").write_text(text)
    with pytest.raises(ModelError, match=r"is not a JSON object|has no model_cfg with vision_cfg and text_cfg"):
        load(str(folder))


def test_weights_of_open_clip_without_their_configuration(written: Write) -> None:
    folder = written("quiltnet")
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(ModelError, match=r"has weights of open_clip and no open_clip_config.json; copy it from"):
        load(str(folder))


@pytest.mark.parametrize(
    ("name", "file", "sentence"),
    [
        ("quiltnet", "tokenizer.json", r"no tokenizer.json and no vocab.json with merges.txt; copy them there, .*CLIP"),
        ("chexzero", "tokenizer.json", r"no tokenizer.json and no vocab.json with merges.txt; copy them there, .*CLIP"),
        ("biomedclip", "vocab.txt", r"no tokenizer.json and no vocab.txt; copy them there from microsoft/BiomedNLP"),
        ("medclip", "vocab.txt", r"no tokenizer.json and no vocab.txt; copy them there from emilyalsentzer"),
        ("siglip", "tokenizer.json", r"no tokenizer.json; copy it there from the model's page \(spiece.model alone"),
        ("siglip", "preprocessor_config.json", r"has no preprocessor_config.json"),
        (
            "siglip",
            "config.json",
            r"has no config.json; .* and without open_clip_config.json not one of open_clip either",
        ),
    ],
)
def test_files_to_add_are_named(written: Write, name: str, file: str, sentence: str) -> None:
    folder = written(name)
    (folder / file).unlink()
    with pytest.raises(ModelError, match=sentence):
        load(spec_of(name, folder))


def test_a_tokenizer_with_more_words_than_the_tower(written: Write) -> None:
    folder = written("biomedclip")
    words = (folder / "vocab.txt").read_text()
    (folder / "vocab.txt").write_text(words + "lymphocyte\n")
    with pytest.raises(ModelError, match=r"its tokenizer has 73 words, the text tower knows 72$"):
        load(str(folder))


def test_a_tokenizer_without_an_end_marker_is_none_of_siglips(written: Write) -> None:
    folder = written("siglip")
    said = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(said | {"post_processor": None}))
    with pytest.raises(ModelError, match=r"puts no end marker after a text, so it is none of SigLIP's"):
        load(str(folder))


def test_networks_with_convolutions_are_refused_by_name(written: Write) -> None:
    folder = written("chexzero")
    change(folder, lambda weights: weights | {"visual.layer1.0.conv1.weight": torch.zeros(2)})
    with pytest.raises(ModelError, match=r"its image encoder is a ResNet; of OpenAI's CLIPs, those with"):
        load(f"chexzero={folder}")
    torch.save({"vision_model.model.conv1.weight": torch.zeros(2)}, folder / "best_64.pt")
    with pytest.raises(ModelError, match=r"this is MedCLIP with a ResNet-50, which is not read; use"):
        load(f"medclip-vit={folder}")


def test_openais_own_numbers_beside_the_weights_are_left_out(written: Write) -> None:
    folder = written("chexzero")
    numbers = {"input_resolution": torch.tensor(16), "context_length": torch.tensor(77), "vocab_size": torch.tensor(9)}
    change(folder, lambda weights: weights | numbers)
    assert load(f"chexzero={folder}").preprocess.size == 16


@pytest.mark.parametrize("content", [{"epoch": 3, "a": torch.zeros(1)}, {"state_dict": {"a": torch.zeros(1)}}])
def test_a_file_that_holds_more_than_tensors_is_refused(written: Write, content: dict) -> None:
    folder = written("chexzero")
    torch.save(content, folder / "best_64.pt")
    with pytest.raises(ModelError, match=r"best_64.pt holds more than named tensors; refused"):
        load(f"chexzero={folder / 'best_64.pt'}")


def test_a_folder_with_two_files_of_weights_wants_one_named(written: Write) -> None:
    folder = written("chexzero")
    (folder / "best_65.pt").write_bytes((folder / "best_64.pt").read_bytes())
    with pytest.raises(ModelError, match=r"should hold one file .*found best_64.pt, best_65.pt; name the file$"):
        load(f"chexzero={folder}")
    assert load(f"chexzero={folder / 'best_65.pt'}").name.endswith("best_65.pt")


def test_a_file_for_a_model_that_is_a_folder(written: Write) -> None:
    folder = written("quiltnet")
    with pytest.raises(ModelError, match=r"model.safetensors is a file; quiltnet-b-32 is read from a folder$"):
        load(f"quiltnet-b-32={folder / 'open_clip_model.safetensors'}")


def test_sizes_that_do_not_go_together_are_told_in_one_line(written: Write) -> None:
    folder = written("siglip")
    said = json.loads((folder / "config.json").read_text())
    said["vision_config"] |= {"num_attention_heads": 5}
    (folder / "config.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match=r"^[^\n]*: its sizes make no SigLIP: [^\n]*5[^\n]*$"):
        load(str(folder))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_size": 24}, r"preprocessor_config.json resizes to 16 px, the vision tower takes 24 px"),
        ({"vision_use_head": False}, r"its vision tower has no pooling head"),
    ],
)
def test_a_siglip_that_cannot_be_used(written: Write, changes: dict, sentence: str) -> None:
    folder = written("siglip")
    said = json.loads((folder / "config.json").read_text())
    said["vision_config"] |= changes
    (folder / "config.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match=sentence):
        load(str(folder))


# -- CONCH


@pytest.fixture
def conch(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    made = package()
    monkeypatch.setitem(sys.modules, "conch", types.ModuleType("conch"))
    monkeypatch.setitem(sys.modules, "conch.open_clip_custom", made)
    return made


def test_conch_wants_its_own_package(tmp_path: Path) -> None:
    write_conch(tmp_path)
    with pytest.raises(ModelError, match=r"needs its authors' package conch, which cannot be imported \(No module"):
        load(f"conch={tmp_path}")


@pytest.mark.usefixtures("conch")
def test_conch_says_its_licence_and_reads_what_the_package_reads(tmp_path: Path) -> None:
    weights = write_conch(tmp_path)
    model = load(f"conch={tmp_path}")
    assert "no commercial use" in model.licence
    ids = model.tokenize("a photo of red paint.")
    rows = torch.tensor([[*ids, *[0] * (127 - len(ids))]])
    tokens = torch.tanh(weights["text.token_embedding.weight"][rows] + weights["text.positional_embedding"][:-1])
    expected = (tokens * (rows != 0)[..., None]).sum(dim=1) @ weights["text.proj.weight"].T
    torch.testing.assert_close(model.encode_text(["a photo of red paint."]), expected)
    assert model.context_length == 127


@pytest.mark.usefixtures("conch")
def test_conch_without_a_weight_is_refused_though_its_package_lets_it_pass(tmp_path: Path) -> None:
    write_conch(tmp_path)
    change(tmp_path, lambda weights: {key: value for key, value in weights.items() if key != "visual.proj.weight"})
    with pytest.raises(ModelError, match=r"missing keys in its weights: visual.proj.weight; .* is not a CONCH"):
        load(f"conch={tmp_path}")


def test_conch_with_another_tokenizer_is_refused(tmp_path: Path, conch: types.ModuleType) -> None:
    class Bare(Words):
        def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
            return {"input_ids": super().__call__(text, **options)["input_ids"][1:-1]}

    vars(conch)["get_tokenizer"] = Bare
    write_conch(tmp_path)
    with pytest.raises(ModelError, match=r"puts no markers around a text; another version is installed"):
        load(f"conch={tmp_path}")
