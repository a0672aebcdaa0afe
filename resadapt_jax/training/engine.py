"""An external engine for rollouts: what it is asked, in Hugging Face's terms, and what it answers.

Without one the backbone answers in process (`backbone_step.answer_all`). An engine is handed to
``recipe.train``; any object with the members of `Engine` is one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.typing import Float, Int


@dataclass(frozen=True, kw_only=True, eq=False)
class EngineRequest:
    """One prompt with one allocation, as a processor of Hugging Face's would give it.

    ``n`` counts positions; nothing is padded. Every pair of frames is a video of its own with a
    single temporal patch, so seconds per grid have no effect.

    Attributes:
        input_ids: the pair's placeholder is repeated once per visual token.
        mm_token_type_ids: 1 at tokens of images, 2 at those of videos, 0 at text.
        position_ids: temporal, row and column, by the run's convention. What an engine computes by
            itself must be the same: transformers 5 numbers as ``hf-5``, vLLM as ``vllm``; the
            conventions whose pairs share an anchor no engine has, so it must take these.
        pixel_values_videos: normalised float32 patches of all pairs of videos, in the order of HF's
            processors.
        video_grid_thw: (1, rows, cols) in patches of each pair of a video that is shown.
        pixel_values: the same of images, which are pairs of one frame twice.
        image_grid_thw: the same of images.
        compact_ids: the prompt with one placeholder per pair or image, for engines that repeat it.
        num_answers: how many are wanted (N).
        decoding: how they are drawn. Its ``stop_token_ids`` are all that end an answer, the
            model's own among them; its last two fields are for the in-process backbone.
        seed: of the draws, below 2³¹; another one in every request, and the same when a step is
            repeated.
    """

    input_ids: Int[np.ndarray, " n"]
    mm_token_type_ids: Int[np.ndarray, " n"]
    position_ids: Int[np.ndarray, "3 n"]
    pixel_values_videos: Float[np.ndarray, "patches features"]
    video_grid_thw: Int[np.ndarray, "videos 3"]
    pixel_values: Float[np.ndarray, "patches features"]
    image_grid_thw: Int[np.ndarray, "images 3"]
    compact_ids: Int[np.ndarray, " c"]
    num_answers: int
    decoding: DecodingConfig
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class EngineAnswer:
    """One answer, as tokens or as a text.

    Attributes:
        text: what is graded. None: what the backbone's tokenizer reads in the tokens, special
            tokens left out.
        token_ids: at most ``max_new_tokens``; one that is shorter ends with a stop token, behind
            which there is nothing. None: the engine gives texts alone; how long one is, with a
            stop token behind it, the backbone's tokenizer counts.
        log_probs: of the tokens, under the distribution they were drawn from: after temperature,
            top-k and top-p, or ``softmax(logits)`` at temperature 0. None: the engine has none.
            Where they count (``old_log_probs="rollout"``) and a step is one update, a metric
            ``backbone_ratio`` away from 1 shows an engine that computes something else.
    """

    text: str | None = None
    token_ids: Sequence[int] | Int[np.ndarray, " t"] | None = None
    log_probs: Sequence[float] | Float[np.ndarray, " t"] | None = None


class Engine(Protocol):
    """What answers in place of the in-process backbone.

    On several hosts each has its own, which answers that host's prompts.

    Attributes:
        gives_token_ids: whether its answers have them. A backbone in training learns from tokens;
            an allocator beside a frozen one needs no more than texts.
        gives_log_probs: whether its answers have log-probs of the tokens. A backbone in training
            that is answered for without needs ``old_log_probs="recomputed"``.
    """

    gives_token_ids: bool
    gives_log_probs: bool

    def generate(self, requests: Iterator[EngineRequest]) -> Iterable[Iterable[EngineAnswer]]:
        """``num_answers`` answers to each request, in order.

        Args:
            requests: each is made when it is taken, so that one that is done with frees its pixels;
                they can be gone through once.
        """

    def load_weights(self, weights: Iterator[tuple[str, np.ndarray]]) -> None:
        """Takes the backbone as it is now; before each step's answers if a run trains it.

        Args:
            weights: keys and whole tensors of the Hugging Face checkpoint, in the dtype that the
                run computes in. They are gathered one by one as they are taken.
        """
