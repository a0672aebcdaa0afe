"""How engines number the positions of a video, which they do differently.

The ids of a prompt decide where text resumes after a video and how its time is counted; a model is
only itself under the convention it is run with. Every result records the one in force.
`prompt_layout` computes the ids, `families.check_convention` says which models know which.
"""

from enum import Enum

import numpy as np

from resadapt_jax.typing import Float, Int


class Convention(Enum):
    """A rule for the positions of an entry that starts at ``p``, with T temporal patches at
    intervals of ``s`` seconds, ``r`` temporal positions a second, R rows and C columns of tokens.

    In all of them a token in row i and column j has positions p + i and p + j on the last two axes.

    Attributes:
        HF_4_57: transformers 4.57. Time ⌊s⌋·r·k: the seconds are cut to whole ones first. Text
            resumes behind the largest index of any axis.
        HF_5: transformers 5. Time ⌊s·r·k⌋. Text resumes at p + max(R, C), whatever the time, so
            it may overlap a long video's times; the first generated token comes behind them all.
        VLLM: time as HF_5, text resumes as HF_4_57.
        RESADAPT: adjacent entries are pairs of one video and share its start: time is ⌊r·(t - t₀)⌋
            for a pair at t seconds whose video's first is at t₀; rows and columns begin at p in
            every pair. Text resumes behind the largest index of all of them.
        RESADAPT_NATIVE: as RESADAPT, rows and columns stretched over the native grid: ⌊i·R₀ / R⌋,
            so that a place in the picture keeps its position at any size. Text resumes behind the
            native grid, p + max(R₀, C₀), or the last time, so that it keeps its position too.
    """

    HF_4_57 = "hf-4.57"
    HF_5 = "hf-5"
    VLLM = "vllm"
    RESADAPT = "resadapt"
    RESADAPT_NATIVE = "resadapt-native"

    @property
    def shares_anchor(self) -> bool:
        """Pairs of a video stand in one wrapper and share their start."""
        return self in (Convention.RESADAPT, Convention.RESADAPT_NATIVE)


def milliseconds(seconds: Float[np.ndarray, " E"]) -> Int[np.ndarray, " E"]:
    """Times of pairs, as positions on a clock that they share are computed from in integers."""
    return np.round(1000 * seconds).astype(np.int32)
