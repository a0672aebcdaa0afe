"""The backbone's part of a joint step in torch and transformers, against ours (`train_step`).

Both answer the same prompts under the same allocations, drawn once; both then learn from the same
answers with the same advantages: forward pass, clipped surrogate, backward pass, AdamW, in float32,
all prompts at once. Answers are sampled at the config's temperature until every row has ended.

What the arms do not share: transformers encodes the clips of every allocation, as its model has
no other way, where ours encodes every level of a pair once, if that is less; its patches are made
beforehand, ours are resized in the step; it keeps activations where our config recomputes them
(``remat``); its prompts are padded to the longest of the batch, ours to the capacity.
"""

import os
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from einops import rearrange, repeat
from hf_model import hf_model
from timing import interleaved, median
from training_run import Run

from resadapt_jax.generation.prompts import lay_out
from resadapt_jax.generation.stopping import stop_tokens
from resadapt_jax.generation.visual import pack_pairs
from resadapt_jax.training import backbone_step
from resadapt_jax.training import step as training
from resadapt_jax.training.config import TrainConfig
from resadapt_jax.training.mesh import put_batch
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.step import Rolled, Trainer
from resadapt_jax.typing import Float, Int, Params


def compare(config: TrainConfig, num_prompts: int, repeats: int) -> dict[str, Any]:
    """Medians of both arms in turns, after their log-probs of the same answers are found equal."""
    torch.set_num_threads(os.cpu_count() or 1)
    run = Run(replace(config, batch_size=num_prompts))
    with jax.set_mesh(run.mesh):
        ours = Ours(run)
        advantages = np.asarray(ours.earned.per_answer)
        theirs = Hf(run.trainer, run.backbone.params, ours.batch, ours.rolled, advantages)
        theirs.check()
        arms = {
            "rollout, ours": ours.answer,
            "rollout, HF": theirs.answer,
            "update, ours": ours.update,
            "update, HF": theirs.update,
        }
        seconds = interleaved(arms, warmup=1, repeats=repeats)
    medians = {name: median(each) for name, each in seconds.items()}
    result = {"prompts": num_prompts, "answers": advantages.size, "median_s": medians}
    print(f"{num_prompts} prompts, {advantages.size} answers, seconds: ours, HF, HF / ours")
    for part in ("rollout", "update"):
        mine, other = (medians[f"{part}, {arm}"] for arm in ("ours", "HF"))
        result[f"{part}_hf_over_ours"] = other / mine
        print(f"  {part:8} {mine:8.3f} {other:8.3f} {other / mine:8.2f}", flush=True)
    return result | {"torch": torch.__version__, "seconds": seconds}


class Ours:
    """The functions of a run's step, on one batch; rewards are drawn, as only their cost counts."""

    def __init__(self, run: Run):
        config = run.config
        features, self.batch = run.encode(next(run.batches(1)))
        self.run = run
        step = run.trainer, run.frozen, run.state
        self.rolled, _ = training.roll_out(*step, features, self.batch)
        shape = self.rolled.answers.mask.shape[:-1]
        accuracy = np.random.default_rng(0).integers(0, 2, shape).astype(np.float32)
        self.group, self.earned, _ = training.judge(
            put_batch({"accuracy": accuracy}, run.mesh),
            self.rolled.drawn.scales,
            self.rolled.drawn.unit_mask,
            self.batch.valid,
            scale_range=config.scale_range,
            rewards=config.rewards,
            success_threshold=config.success_threshold,
            estimator=run.trainer.estimator,
        )

    def answer(self) -> None:
        trainer, drawn, passes = self.run.trainer, self.rolled.drawn, self.rolled.passes
        params = training.rollout_params(trainer, self.run.frozen, self.run.state)
        given = self.batch, drawn, passes, jax.random.key(0), trainer.setting
        jax.block_until_ready(backbone_step.answer_all(params, *given))

    def update(self) -> None:
        run, moved = self.run, jnp.ones(self.rolled.drawn.tokens.shape)
        given = self.batch, self.rolled, self.group, self.earned, moved
        learnt = training.learn_backbone(run.trainer, run.frozen, run.state, *given)
        run.state, _ = jax.block_until_ready(learnt)


class Hf:
    """The same in transformers: a row of the batch for each answer, padded on the left."""

    def __init__(
        self,
        trainer: Trainer,
        params: Params,
        batch: PromptBatch,
        rolled: Rolled,
        advantages: Float[np.ndarray, "B M N"],
    ):
        setting, joint = trainer.setting, trainer.config.backbone_training
        self.decoding, self.loss = setting.rollouts.decoding, joint.loss
        self.stop = list(stop_tokens(setting.config, self.decoding.stop_token_ids))
        self.model = hf_model(params, setting.config)
        self.inputs = hf_batch(setting, batch, rolled)
        rows = partial(rearrange, pattern="b m n t -> (b m n) t")
        answers = jax.tree.map(lambda x: torch.tensor(rows(np.asarray(x))), rolled.answers)
        self.tokens, self.mask = answers.token_ids.long(), answers.mask
        self.old_log_probs = answers.log_probs
        self.advantages = torch.tensor(advantages.reshape(-1, 1))
        self.max_grad_norm = joint.optimizer.max_grad_norm
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=joint.optimizer.learning_rate,
            betas=(0.9, joint.optimizer.beta2),
            weight_decay=joint.optimizer.weight_decay,
        )

    def check(self) -> None:
        """What the rollout recorded of its tokens is what transformers gives them."""
        with torch.no_grad():
            theirs = torch.where(self.mask, self.log_probs(), 0.0)
        np.testing.assert_allclose(theirs.numpy(), self.old_log_probs.numpy(), atol=2e-3)

    def answer(self) -> None:
        torch.manual_seed(0)
        drawn = {"do_sample": True, "temperature": self.decoding.temperature, "top_k": 0}
        with torch.no_grad():
            self.model.generate(
                **self.inputs,
                max_new_tokens=self.decoding.max_new_tokens,
                eos_token_id=self.stop,
                pad_token_id=0,
                **(drawn if self.decoding.temperature else {"do_sample": False}),
            )

    def log_probs(self) -> torch.Tensor:
        """Of the given answers, [rows, T]."""
        inputs = self.inputs | {
            "input_ids": torch.cat([self.inputs["input_ids"], self.tokens], dim=1),
            "attention_mask": torch.cat([self.inputs["attention_mask"], self.mask.long()], dim=1),
            "mm_token_type_ids": torch.cat(
                [self.inputs["mm_token_type_ids"], torch.zeros_like(self.tokens).int()], dim=1
            ),
        }
        keep = self.tokens.shape[1] + 1
        logits = self.model(**inputs, logits_to_keep=keep, use_cache=False).logits[:, :-1]
        log_probs = torch.log_softmax(logits / (self.decoding.temperature or 1.0), dim=-1)
        return log_probs.gather(-1, self.tokens[..., None])[..., 0]

    def update(self) -> None:
        ratio = torch.exp(torch.where(self.mask, self.log_probs() - self.old_log_probs, 0.0))
        clipped = ratio.clip(1 - self.loss.clip_low, 1 + self.loss.clip_high)
        each = -torch.minimum(ratio * self.advantages, clipped * self.advantages)
        of_answer = torch.where(self.mask, each, 0.0).sum(1) / self.mask.sum(1)
        self.optimizer.zero_grad()
        of_answer.mean().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        self.optimizer.step()


def hf_batch(
    setting: backbone_step.Setting, batch: PromptBatch, rolled: Rolled
) -> dict[str, torch.Tensor]:
    """What transformers takes of the prompts under their allocations."""
    config, geometry = setting.config, setting.geometry
    grids = np.asarray(rolled.drawn.grid_thw)
    per_prompt = grids.shape[1] * setting.rollouts.num_answers
    grids = repeat(grids, "b m e c -> (b m n) e c", n=setting.rollouts.num_answers)
    prompts = jax.tree.map(
        lambda x: repeat(np.asarray(x), "b ... -> (b r) ...", r=per_prompt), batch.prompts
    )
    capacity = setting.rollouts.token_capacity
    layout = lay_out(prompts, jnp.asarray(grids), config, capacity, geometry.convention)
    ids, mask = pad_left(np.asarray(layout.token_ids), np.asarray(layout.length))
    present = grids[grids[..., 0] > 0]
    return {
        "input_ids": torch.tensor(ids).long(),
        "attention_mask": torch.tensor(mask).long(),
        "mm_token_type_ids": 2 * torch.tensor(ids == config.video_token_id).int(),
        "pixel_values_videos": torch.tensor(patches_of(setting, batch, grids, per_prompt)),
        "video_grid_thw": torch.tensor(present).long(),
        "second_per_grid_ts": torch.ones(len(present)),
    }


def patches_of(
    setting: backbone_step.Setting,
    batch: PromptBatch,
    grids: Int[np.ndarray, "BMN E 3"],
    per_prompt: int,
) -> Float[np.ndarray, "P C"]:
    """The patches of every row's clip at its own sizes, one row behind the other."""
    height, width = setting.geometry.most_pixels
    bounds = {"max_height": height, "max_width": width}
    capacity = setting.rollouts.token_capacity
    pack = jax.jit(partial(pack_pairs, setting.config, capacity=capacity, **bounds))
    frames = np.asarray(batch.frames)
    return np.concatenate(
        [
            np.asarray(pack(frames[row // per_prompt], grid)[0])[: grid.prod(axis=-1).sum()]
            for row, grid in enumerate(grids)
        ]
    )


def pad_left(
    token_ids: Int[np.ndarray, "B T"], lengths: Int[np.ndarray, " B"]
) -> tuple[Int[np.ndarray, "B T2"], Int[np.ndarray, "B T2"]]:
    """Right-padded rows as left-padded ones of the longest row's length, and their mask."""
    longest = lengths.max()
    mask = np.arange(longest)[None, :] >= longest - lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = token_ids[np.arange(token_ids.shape[1])[None, :] < lengths[:, None]]
    return ids, mask
