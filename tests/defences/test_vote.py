"""Vote: each sample is answered by the prompt that is surest of it, whoever its batch mates are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp
from scipy.stats import entropy

from medrobust.data.task import Dataset, Task
from medrobust.defences.heads import CosineHead, prompts, text_prototypes
from medrobust.defences.vote import Vote, VoteHead, vote
from medrobust.models.clip import Clip

GENERATOR = torch.Generator().manual_seed(0)
PROTOTYPES = torch.nn.functional.normalize(torch.randn(4, 3, 6, generator=GENERATOR), dim=-1)
FEATURES = torch.randn(40, 6, generator=GENERATOR)
RULES = pytest.mark.parametrize("rule", ["entropy", "mean"])


def each_prompt() -> np.ndarray:
    heads = [CosineHead(prototypes, 10.0)(FEATURES).double().numpy() for prototypes in PROTOTYPES]
    return log_softmax(np.stack(heads, axis=1), axis=-1)


def test_the_prompt_of_lowest_entropy_answers() -> None:
    each = each_prompt()
    surest = entropy(np.exp(each), axis=-1).argmin(axis=1)
    assert len(set(surest.tolist())) == 4
    found = VoteHead(PROTOTYPES, 10.0, "entropy")(FEATURES)
    np.testing.assert_allclose(found.numpy(), each[np.arange(40), surest], atol=1e-4)


def test_the_mean_is_of_probabilities() -> None:
    found = VoteHead(PROTOTYPES, 10.0, "mean")(FEATURES)
    np.testing.assert_allclose(found.numpy(), logsumexp(each_prompt(), axis=1) - np.log(4), atol=1e-4)
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(40))


@RULES
@settings(max_examples=30)
@given(rows=st.lists(st.integers(0, 39), min_size=1, max_size=20))
def test_a_samples_answer_does_not_depend_on_its_batch_mates(rule: str, rows: list[int]) -> None:
    head = VoteHead(PROTOTYPES, 10.0, rule)  # type: ignore[arg-type]
    together = head(FEATURES[rows])
    alone = torch.cat([head(FEATURES[row : row + 1]) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_one_prompt_votes_as_it_answers_alone() -> None:
    expected = CosineHead(PROTOTYPES[0], 10.0)(FEATURES).log_softmax(dim=-1)
    for rule in ("entropy", "mean"):
        torch.testing.assert_close(VoteHead(PROTOTYPES[:1], 10.0, rule)(FEATURES), expected)  # type: ignore[arg-type]


@RULES
def test_a_feature_that_is_no_number_gets_no_answer(rule: str) -> None:
    broken = FEATURES.clone()
    broken[3, 2] = float("nan")
    found = VoteHead(PROTOTYPES, 10.0, rule)(broken)  # type: ignore[arg-type]
    assert found.isfinite().all(dim=1).tolist() == [row != 3 for row in range(40)]


def test_the_prompts_are_the_tasks_templates(tiny: Clip, task: Task, unseen: Dataset) -> None:
    head = vote(Vote()).apply(tiny, task, {}).head
    assert isinstance(head, VoteHead)
    assert head.scale == tiny.logit_scale
    for found, template in zip(head.prototypes, task.templates, strict=True):
        torch.testing.assert_close(found, text_prototypes(tiny, prompts(task, template)))
