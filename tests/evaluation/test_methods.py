"""What each method shows the backbone, counted by hand on clips of three pairs of 1 or 4 tokens."""

import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from evaluation_parts import LIMITS, backbone, build_prompts, clips, tokens_of

from resadapt_jax.errors import UserError
from resadapt_jax.evaluation import methods
from resadapt_jax.evaluation.methods import Proposals
from resadapt_jax.models.prompt_builder import VIDEO_PAD
from resadapt_jax.report.frontier import SERIES
from resadapt_jax.training.config import EvaluationConfig

# 0.4 · 56 = 22 pixels round to one token of 28, 0.9 · 56 = 50 pixels to two; the roles are swapped.
PROPOSALS = Proposals(
    scales=np.tile(np.float32([0.9, 0.4, 0.4]), (4, 1)),
    other_query=np.tile(np.float32([0.4, 0.4, 0.9]), (4, 1)),
)
CONFIG = EvaluationConfig(fixed_retentions=(0.25, 0.5), drop_retentions=(0.5,), budgets=(0.5,))


def all_settings():
    prompts = {"build_prompts": build_prompts}
    frontier = methods.frontier_settings(CONFIG, limits=LIMITS, s_min=0.2, **prompts)
    return frontier + methods.control_settings(limits=LIMITS, **prompts)


def text_of(prompts, i):
    ids = prompts.compact_ids[i][: prompts.compact_length[i]]
    return backbone().tokenizer.decode(ids)


def same(first, second):
    leaves = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(*pair) for pair in leaves)


def test_every_point_of_the_frontier_is_drawn_once():
    for setting in all_settings():
        drawn = [
            series
            for series in SERIES
            if series.method == setting.method and setting.name.startswith(series.prefix)
        ]
        assert len(drawn) == (setting.method != "control"), setting.name


def test_vanilla_shows_all():
    inputs = methods.vanilla(clips(), PROPOSALS, limits=LIMITS)
    assert tokens_of(inputs.grid_thw).tolist() == [[4, 4, 4]] * 4
    assert inputs.kept is None


def test_oracle_shows_the_evidence_large_and_the_rest_small():
    evidence = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]], bool)
    known = replace(clips(), evidence=evidence)
    inputs = methods.oracle(known, PROPOSALS, limits=LIMITS, s_min=0.2)
    expected = [[4, 1, 1], [1, 4, 4], [1, 1, 1], [4, 4, 4]]
    assert tokens_of(inputs.grid_thw).tolist() == expected


def test_resadapt_shows_what_was_proposed():
    inputs = methods.resadapt(clips(), PROPOSALS, limits=LIMITS)
    assert tokens_of(inputs.grid_thw).tolist() == [[4, 1, 1]] * 4


def test_resadapt_keeps_its_budget():
    # 12 native tokens: a half is 6, which 4 + 1 + 1 fills; 0.45 is 5.4, so the large pair shrinks
    # by one side to 2 tokens (5 do not form a rectangle in the larger one).
    within = methods.resadapt_within(0.5, clips(), PROPOSALS, limits=LIMITS)
    assert tokens_of(within.grid_thw).tolist() == [[4, 1, 1]] * 4
    below = methods.resadapt_within(0.45, clips(), PROPOSALS, limits=LIMITS)
    assert tokens_of(below.grid_thw).tolist() == [[2, 1, 1]] * 4
    with pytest.raises(UserError, match="0.2 is 2 tokens a clip, but 3 are needed"):
        methods.resadapt_within(0.2, clips(), PROPOSALS, limits=LIMITS)


@pytest.mark.parametrize(
    "retention, expected",
    # a quarter is the smallest size, one the largest; at a half 2 tokens a pair are wanted, a third
    # of the way from 1 to 4, so exactly one pair of three is large
    [(0.25, {3}), (1.0, {12}), (0.5, {6})],
)
def test_fixed_scale_hits_its_retention(retention, expected):
    inputs = methods.fixed_scale(retention, clips(), PROPOSALS, limits=LIMITS)
    assert set(tokens_of(inputs.grid_thw).sum(axis=1).tolist()) == expected


def test_fixed_scale_refuses_what_no_size_keeps():
    with pytest.raises(UserError, match="keeps 0.25 to 1 of the tokens, not 0.2"):
        methods.fixed_scale(0.2, clips(), PROPOSALS, limits=LIMITS)
    with pytest.raises(UserError):
        methods.fixed_scale(1.1, clips(), PROPOSALS, limits=LIMITS)


def test_mixing_is_even_over_time_and_over_clips():
    index = np.arange(1000)
    marked = methods.evenly(0.3, 12, index)
    assert set(marked.sum(axis=1).tolist()) == {3, 4}  # 3.6 a clip
    assert marked.mean() == pytest.approx(0.3, abs=1e-3)
    # No position is favoured; chance alone would spread them by √(0.3 · 0.7 / 1000) = 0.014.
    assert np.abs(marked.mean(axis=0) - 0.3).max() < 5e-3
    # Even over time: two marks are 3 or 4 pairs apart, 1 / 0.3 on average.
    gaps = np.concatenate([np.diff(np.flatnonzero(row)) for row in marked])
    assert set(gaps.tolist()) == {3, 4}
    assert methods.evenly(0.0, 12, index).sum() == 0 and methods.evenly(1.0, 12, index).all()
    assert methods.evenly(0.25, 12, index).sum(axis=1).tolist() == [3] * 1000


def test_random_subsets_are_of_the_right_size_nested_and_repeatable():
    index = np.arange(1000)
    eighth, half = (methods.random_subsets(share, 12, index, (7, 0)) for share in (0.125, 0.5))
    assert set(eighth.sum(axis=1).tolist()) == {1, 2}  # 1.5 a clip
    assert eighth.mean() == pytest.approx(0.125, abs=1e-3)
    assert half.sum(axis=1).tolist() == [6] * 1000
    assert np.all(half | ~eighth)
    assert np.abs(half.mean(axis=0) - 0.5).max() < 0.06  # √(0.25 / 1000) = 0.016
    assert np.array_equal(half[500:], methods.random_subsets(0.5, 12, index[500:], (7, 0)))
    assert not np.array_equal(half, methods.random_subsets(0.5, 12, index, (8, 0)))
    assert methods.random_subsets(0.01, 12, index, (7, 0)).sum(axis=1).tolist() == [1] * 1000


def test_drop_tokens_encodes_all_and_keeps_a_share():
    inputs = methods.drop_tokens(0.25, clips(), PROPOSALS, limits=LIMITS, seed=2)
    assert tokens_of(inputs.grid_thw).tolist() == [[4, 4, 4]] * 4
    assert inputs.kept.shape == (4, 12) and inputs.kept.sum(axis=1).tolist() == [3] * 4


def test_drop_pairs_leaves_the_headers_and_times_of_the_kept_alone():
    tokenizer = backbone().tokenizer
    inputs = methods.drop_pairs(
        2 / 3, clips(), PROPOSALS, limits=LIMITS, seed=2, build_prompts=build_prompts
    )
    tokens = tokens_of(inputs.grid_thw)
    assert all(sorted(row) == [0, 4, 4] for row in tokens.tolist())
    assert len({tuple(row) for row in tokens.tolist()}) > 1  # not the same pair in every clip
    for i, shown in enumerate(tokens > 0):
        text = text_of(inputs.prompts, i)
        # Pairs last a second at two frames per second: 0 and 0.5 s make <0.2 seconds>.
        start = int(clips().times[i][0])
        stamps = [f"{start + k}.2" for k in np.flatnonzero(shown)]
        assert re.findall(r"<([\d.]+) seconds>", text) == stamps
        assert text.count(VIDEO_PAD) == 2 and clips().questions[i] in text
        # An entry keeps the number of its pair.
        entries = inputs.prompts.entry_index[i]
        assert entries[entries >= 0].tolist() == np.flatnonzero(shown).tolist()
        ids = inputs.prompts.compact_ids[i][entries >= 0]
        assert set(ids.tolist()) == {tokenizer.convert_tokens_to_ids(VIDEO_PAD)}


def test_drop_pairs_of_none_is_vanilla():
    all_kept = methods.drop_pairs(
        1.0, clips(), PROPOSALS, limits=LIMITS, seed=2, build_prompts=build_prompts
    )
    assert same(all_kept, methods.vanilla(clips(), PROPOSALS, limits=LIMITS))


def test_blind_asks_the_question_alone():
    inputs = methods.blind(clips(), PROPOSALS, build_prompts=build_prompts)
    assert inputs.grid_thw.sum() == 0
    for i, question in enumerate(clips().questions):
        text = text_of(inputs.prompts, i)
        assert question in text
        assert VIDEO_PAD not in text and "seconds>" not in text and "vision" not in text
    assert (inputs.prompts.entry_index == -1).all()


def test_other_query_changes_the_allocation_and_not_the_prompt():
    inputs = methods.other_query(clips(), PROPOSALS, limits=LIMITS)
    assert tokens_of(inputs.grid_thw).tolist() == [[1, 1, 4]] * 4
    assert same(inputs.prompts, clips().batch.prompts)


def test_only_the_oracle_reads_the_evidence():
    poisoned = replace(clips(), evidence=~clips().evidence)
    differ = [
        setting.method
        for setting in all_settings()
        if not same(setting.build(clips(), PROPOSALS), setting.build(poisoned, PROPOSALS))
    ]
    assert differ == ["oracle"]


def test_only_resadapt_reads_the_proposals():
    changed = Proposals(scales=PROPOSALS.other_query, other_query=PROPOSALS.scales)
    differ = [
        (setting.method, setting.name)
        for setting in all_settings()
        if not same(setting.build(clips(), PROPOSALS), setting.build(clips(), changed))
    ]
    assert differ == [
        ("resadapt", "free"),
        ("resadapt", "budget 0.5"),
        ("control", "other_query"),
    ]


def test_shares_are_judged_without_a_clip():
    # Three pairs of 4 tokens, at least 1 each.
    size = (3, 56, 56, LIMITS)
    methods.require_feasible_shares(replace(CONFIG, budgets=(0.25, 1.0)), *size)
    with pytest.raises(UserError, match="0.24 is 2 tokens a clip, but 3 are needed"):
        methods.require_feasible_shares(replace(CONFIG, budgets=(0.5, 0.24)), *size)
    with pytest.raises(UserError, match="keeps 0.25 to 1 of the tokens, not 0.2"):
        methods.require_feasible_shares(replace(CONFIG, fixed_retentions=(0.5, 0.2)), *size)
