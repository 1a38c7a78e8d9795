"""Heads: cosines with unit prototypes, ensembles of templates, contexts that know where they came from."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity

from medrobust.data.task import Task
from medrobust.defences.heads import (
    CosineHead,
    context_names,
    prompt_head,
    prompts,
    start_context,
    start_template,
    template_prototypes,
    text_prototypes,
)
from medrobust.errors import PromptError
from medrobust.models.clip import Clip

FEATURES = 7 * torch.randn(5, 16, generator=torch.Generator().manual_seed(0))


def test_logits_are_scaled_cosines_whatever_the_length_of_the_feature(tiny: Clip) -> None:
    prototypes = text_prototypes(tiny, ["red", "green", "blue"])
    expected = 3.5 * cosine_similarity(FEATURES[:, None], prototypes[None], dim=-1)
    head = CosineHead(prototypes, 3.5)
    torch.testing.assert_close(head(FEATURES), expected)
    torch.testing.assert_close(head(0.01 * FEATURES), expected)


def test_an_ensemble_is_the_direction_of_the_mean_of_unit_features(tiny: Clip, task: Task) -> None:
    found = template_prototypes(tiny, task)
    for number, name in enumerate(task.classes):
        each = [tiny.encode_text([template.format(name)])[0] for template in task.templates]
        mean = sum(feature / feature.norm() for feature in each)
        torch.testing.assert_close(found[number], mean / mean.norm())
    assert not found.requires_grad


def test_prompts_and_names_are_in_label_order(task: Task) -> None:
    assert prompts(task, "see {}.") == ("see red paint.", "see green paint.", "see blue paint.")
    assert context_names(task) == ("red paint.", "green paint.", "blue paint.")


def test_a_templates_words_as_context_give_the_templates_classifier(tiny: Clip, task: Task) -> None:
    head = prompt_head(tiny, task, start_context(tiny, task.templates[0]))
    expected = text_prototypes(tiny, prompts(task, task.templates[0]))
    torch.testing.assert_close(head(FEATURES), CosineHead(expected, tiny.logit_scale)(FEATURES), atol=1e-4, rtol=0)


def test_another_context_makes_another_head_and_leaves_the_first(tiny: Clip, task: Task) -> None:
    context = start_context(tiny, task.templates[0])
    head = prompt_head(tiny, task, context)
    before = head(FEATURES)
    new = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    other = head.with_context(new)
    assert torch.equal(other(FEATURES), prompt_head(tiny, task, new)(FEATURES))
    assert not torch.allclose(other(FEATURES), before)
    assert torch.equal(head(FEATURES), before)
    assert torch.equal(head.context, context)


def test_a_prompt_too_long_names_its_class(tiny: Clip, task: Task) -> None:
    long = replace(task, classes=("red paint", "green " * 80, "blue paint"))
    with pytest.raises(PromptError, match=r"^class 1 of 3, 'green .*the prompt has 8\d tokens") as caught:
        template_prototypes(tiny, replace(long, templates=("{}",)))
    assert caught.value.index == 1
    with pytest.raises(PromptError, match=r"^class 1 of 3"):
        prompt_head(tiny, long, torch.zeros(3, 32))


@pytest.mark.parametrize("template", ["{}", " {} in a photo"])
def test_a_template_that_begins_with_the_class_has_no_words_to_start_from(tiny: Clip, template: str) -> None:
    with pytest.raises(PromptError, match=r"has no words before the class name: no context to start from"):
        start_context(tiny, template)


@pytest.mark.parametrize(
    ("templates", "expected"),
    [
        (("see {}.", "an image of {}."), "see {}."),
        (("{}", "  {} is seen", "an image of {}."), "an image of {}."),
        (("{}", "{} is seen"), "a photo of a {}"),
    ],
)
def test_a_context_starts_from_the_first_template_with_words_before_the_name(
    task: Task, templates: tuple[str, ...], expected: str
) -> None:
    assert start_template(replace(task, templates=templates)) == expected
