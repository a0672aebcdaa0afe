"""Rollouts by an external engine: what it is asked, what it may answer, whose weights it has."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from resadapt_jax.data.toy_pipeline import question_batches
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.errors import UserError
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.generation.backbone import Backbone
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.models.qwen2_5_vl.checkpoint import save_hf
from resadapt_jax.models.qwen2_5_vl.model import init_params
from resadapt_jax.training.checks import check_engine
from resadapt_jax.training.config import BackboneTrainingConfig, TrainConfig
from resadapt_jax.training.engine import EngineAnswer
from resadapt_jax.training.engine_rollout import answer_by_engine, make_requests, pack_answers
from resadapt_jax.training.loop.metric_log import read_metrics
from resadapt_jax.training.mesh import MeshConfig, batch_sharding, build_mesh, put_batch
from resadapt_jax.training.optimizer import OptimizerConfig
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.recipe import make_trainer, train
from resadapt_jax.training.rollout import Draw
from resadapt_jax.training.rollout_config import RolloutConfig
from resadapt_jax.training.setting import Setting
from tests.training import toy_parts
from tests.training.toy_parts import STOP, WORLD, FakeEngine

VOCABULARY = toy_parts.backbone().config.text.vocab_size
NUM_STEPS, PROMPTS, ALLOCATIONS, ANSWERS, LENGTH = 2, 2, 2, 2, 3


@cache
def backbone() -> Backbone:
    """With a block and a layer."""
    config, _, tokenizer = toy_parts.backbone()
    config = replace(
        config,
        text=replace(config.text, num_hidden_layers=1),
        vision=replace(config.vision, depth=1, fullatt_block_indexes=(0,)),
    )
    return Backbone(config, init_params(jax.random.key(0), config), tokenizer)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of a run that trains the backbone alone."""
    root = tmp_path_factory.mktemp("engine")
    save_hf(root / "backbone", backbone().config, backbone().params)
    backbone().tokenizer.save_pretrained(root / "backbone")
    return TrainConfig(
        output_dir=str(root / "run"),
        backbone=str(root / "backbone"),
        backbone_training=BackboneTrainingConfig(
            optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=0), advantages="released"
        ),
        mesh=MeshConfig(data=1),
        data=replace(WORLD, num_pairs=2, size=56),
        num_steps=NUM_STEPS,
        batch_size=PROMPTS,
        allocator=None,
        train_allocator=False,
        rollouts=RolloutConfig(
            num_allocations=ALLOCATIONS,
            num_answers=ANSWERS,
            token_capacity=4,
            decoding=DecodingConfig(max_new_tokens=LENGTH, temperature=1.0, stop_token_ids=(11,)),
        ),
    )


def setting_of(config, mesh=None) -> Setting:
    mesh = mesh or jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"))
    return make_trainer(config, mesh, backbone(), config.data.native_sizes).setting


def answer(*token_ids, log_probs=None):
    return EngineAnswer(token_ids=list(token_ids), log_probs=log_probs or [-0.5] * len(token_ids))


def pack(answers, config, **gives):
    """Of one prompt with two allocations."""
    return pack_answers(answers, (1, 2), setting_of(config), backbone(), FakeEngine(**gives))


def test_answers_of_any_length_are_packed(config):
    answers = [
        [answer(20, STOP, log_probs=[-0.5, -0.25]), answer(21, 22, 23)],
        [answer(STOP), answer(0, 11)],  # an id of padding that is said; a stop token of the config
    ]
    packed, texts = pack(answers, config)
    said = [[backbone().decode(one.token_ids) for one in some] for some in answers]
    assert texts.tolist() == [said]
    np.testing.assert_array_equal(
        packed.token_ids, [[[[20, STOP, 0], [21, 22, 23]], [[STOP, 0, 0], [0, 11, 0]]]]
    )
    np.testing.assert_array_equal(packed.mask.sum(-1), [[[2, 3], [1, 2]]])
    np.testing.assert_array_equal(packed.mask, np.sort(packed.mask)[..., ::-1])
    np.testing.assert_array_equal(packed.log_probs[0, 0, 0], [-0.5, -0.25, 0.0])
    assert packed.log_probs.dtype == np.float32 and packed.token_ids.dtype == np.int32
    without, _ = pack(answers, config, gives_log_probs=False)
    np.testing.assert_array_equal(np.isnan(without.log_probs), without.mask)


GOOD = answer(20, STOP)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (answer(*[20] * 4), "4 tokens, max_new_tokens is 3"),
        (answer(VOCABULARY, STOP), f"token {VOCABULARY} is outside {VOCABULARY} tokens"),
        (answer(-1, STOP), "token -1 is outside"),
        (answer(20.5, STOP), "token_ids are no row of integers"),
        (answer([20], [STOP]), "token_ids are no row of integers"),
        (answer(STOP, 0, 0), f"goes on behind stop token {STOP}"),
        (answer(20, 21), r"ends after 2 of 3 tokens without a stop token, one of \(2, 11\)"),
        (answer(), "ends after 0 of 3 tokens"),
        (answer([20], [20, STOP]), ".* inhomogeneous shape"),
        ({"token_ids": [20, STOP]}, "a dict is no EngineAnswer"),
        (EngineAnswer(token_ids=[STOP]), "no log_probs, though"),
        (EngineAnswer(text="red"), "no token_ids, though"),
        (replace(GOOD, text=["red"]), "text is a list"),
        (answer(STOP, log_probs=[{STOP: -1.0}]), "float.* not 'dict'"),
        (answer(20, STOP, log_probs=[-1.0]), r"2 tokens with log_probs of shape \(1,\)"),
        (answer(STOP, log_probs=[float("nan")]), "log_probs are not finite and at most 0"),
        (answer(STOP, log_probs=[0.8]), "log_probs are not finite and at most 0"),  # a probability
    ],
)
def test_an_answer_that_was_not_asked_for_is_refused(config, wrong, message):
    message = f"prompt 0, allocation 1, answer 1: {message}"
    with pytest.raises(UserError, match=message):
        pack([[GOOD] * 2, [GOOD, wrong]], config)


def test_texts_are_as_long_as_the_tokenizer_counts(config):
    """With a stop token; cut to the three that an answer can have, while the text stays whole."""
    long, short = (EngineAnswer(text=text) for text in ("A B A B", "A"))
    packed, texts = pack([[long, short], [short, long]], config, gives_token_ids=False)
    assert texts.tolist() == [[["A B A B", "A"], ["A", "A B A B"]]]
    np.testing.assert_array_equal(packed.mask.sum(-1), [[[3, 2], [2, 3]]])
    assert (packed.token_ids[0, 0, 1, 1:] == [STOP, 0]).all()
    assert np.isnan(packed.log_probs[packed.mask]).all()
    with pytest.raises(UserError, match="no text, though the engine's gives_token_ids is False"):
        pack([[GOOD] * 2] * 2, config, gives_token_ids=False)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([[GOOD] * 2], "answered 1 of 2 requests"),
        ([[GOOD] * 2, [GOOD]], "prompt 0, allocation 1: 1 of 2"),
        ([[GOOD] * 2, GOOD], "allocation 1: a EngineAnswer where a list was asked for"),
        (None, "gave a NoneType where a list was asked for"),
    ],
)
def test_another_number_of_answers_is_refused(config, answers, message):
    with pytest.raises(UserError, match=message):
        pack(answers, config)


def test_an_engine_that_cannot_serve_is_refused(config):
    check_engine(None, config)
    check_engine(FakeEngine(), config)
    silent = FakeEngine(gives_log_probs=False)
    recomputed = replace(config.backbone_training, old_log_probs="recomputed")
    check_engine(silent, replace(config, backbone_training=recomputed))
    with pytest.raises(UserError, match="set backbone_training.old_log_probs to recomputed"):
        train(config, engine=silent)
    with pytest.raises(UserError, match="gives texts alone"):
        train(config, engine=FakeEngine(gives_token_ids=False))
    with pytest.raises(
        UserError, match="lacks gives_token_ids, gives_log_probs, generate, load_weights"
    ):
        train(config, engine=object())


def test_a_backbone_in_training_is_handed_over_before_it_answers(config):
    engine = FakeEngine()
    (written,) = train(config, engine=engine)
    assert len(engine.requests) == NUM_STEPS * PROMPTS * ALLOCATIONS
    assert len({request.seed for request in engine.requests}) == len(engine.requests)
    request = engine.requests[0]
    assert request.num_answers == ANSWERS and request.decoding.stop_token_ids == (STOP, 11)
    before, after = engine.weights
    start = load_file(f"{config.backbone}/model.safetensors")
    assert before.keys() == after.keys() == start.keys()
    for key, value in start.items():
        np.testing.assert_array_equal(before[key], value)
    final = load_file(written / "model.safetensors")
    for key in ("visual.patch_embed.proj.weight", "model.embed_tokens.weight"):
        assert not np.array_equal(before[key], after[key])
        assert not np.array_equal(after[key], final[key])
    steps = read_metrics(f"{config.output_dir}/metrics.jsonl")
    assert np.isfinite([step["backbone_loss"] for step in steps]).all()


def test_answers_find_their_place_on_a_mesh(config):
    """Four prompts, two on each of two devices that hold them twice; N answers to each request."""
    mesh = build_mesh(MeshConfig(data=2, tensor=2))
    source = ToyClips(config.data, 4)
    local = PromptBatch.from_records(next(question_batches(source, backbone().tokenizer, 4)))
    sides = np.array([[2, 1, 1, 1, 1, 2, 2, 2], [1, 1, 1, 2, 1, 1, 2, 1]]).T.reshape(4, 2, 2)
    grid_thw = np.stack([np.ones_like(sides), 2 * np.ones_like(sides), 2 * sides], axis=-1)
    parts = dict.fromkeys(Draw.__dataclass_fields__) | {
        "grid_thw": grid_thw,
        "tokens": sides.sum(axis=-1),
    }
    batch, drawn = put_batch((local, Draw(**parts)), mesh)

    class Counting(FakeEngine):
        def generate(self, requests):
            for request in requests:
                self.requests.append(request)
                count = 20 + len(request.pixel_values_videos) // 4
                yield [answer(count, n, STOP) for n in range(20, 20 + request.num_answers)]

    engine, key = Counting(), jax.random.key(3)
    with jax.set_mesh(mesh):
        asked = engine, batch, drawn, key, setting_of(config, mesh), backbone(), mesh
        (ours, texts), (again, _) = answer_by_engine(*asked), answer_by_engine(*asked)
    counts = np.broadcast_to(20 + sides.sum(axis=-1)[:, :, None], (4, 2, ANSWERS))
    np.testing.assert_array_equal(ours.token_ids[..., 0], counts)
    np.testing.assert_array_equal(ours.token_ids[..., 1], np.full((4, 2, 2), [20, 21]))
    assert texts.shape == (4, 2, ANSWERS)
    assert texts[3, 1, 1] == backbone().decode([counts[3, 1, 1], 21])
    assert ours.token_ids.sharding == again.mask.sharding == batch_sharding(mesh)
    # What is asked a second time is asked alike.
    seeds = [request.seed for request in engine.requests]
    assert seeds[:8] == seeds[8:] and len(set(seeds)) == 8
    asked_texts = [request.compact_ids for request in engine.requests[:8:2]]
    for row, text in enumerate(asked_texts):
        np.testing.assert_array_equal(text, local.prompts.compact_ids[row, : len(text)])


def test_pictures_are_asked_about_as_images(config):
    """A picture of one token, then two pairs of video of two and one."""
    world = replace(config.data, num_pairs=3, num_signs=1, num_pictures=1)
    batch = PromptBatch.from_records(
        next(question_batches(ToyClips(world, 1), backbone().tokenizer, 1))
    )
    grids = np.array([[[[1, 2, 2], [1, 2, 4], [1, 2, 2]]]])
    setting = setting_of(replace(config, data=world))
    (request,) = make_requests(batch, grids, np.array([[4]]), np.array([[7]]), setting)
    np.testing.assert_array_equal(request.image_grid_thw, grids[0, 0, :1])
    np.testing.assert_array_equal(request.video_grid_thw, grids[0, 0, 1:])
    assert (len(request.pixel_values), len(request.pixel_values_videos)) == (4, 12)
    config = backbone().config
    image, video = (
        request.input_ids == token for token in (config.image_token_id, config.video_token_id)
    )
    assert (image.sum(), video.sum()) == (1, 3)
    np.testing.assert_array_equal(request.mm_token_type_ids, image + 2 * video)

    def moves(patches):
        """Whether the two frames of a pair differ."""
        frames = patches.reshape(len(patches), 3, 2, -1)
        return np.abs(frames[:, :, 0] - frames[:, :, 1]).max() > 1e-3

    assert moves(request.pixel_values_videos) and not moves(request.pixel_values)


def test_requests_are_of_their_rows_and_of_what_is_shown(config):
    """A pair that is absent is in neither the grids, the pixels nor the prompt."""
    tokens, seeds = np.array([[4], [3]]), np.array([[7], [8]])
    grids = np.array([[[[0, 0, 0], [1, 4, 4]]], [[[1, 2, 2], [1, 2, 4]]]])

    source, convention = ToyClips(config.data, 2), Convention.RESADAPT_NATIVE
    records = next(question_batches(source, backbone().tokenizer, 2, convention))
    setting = setting_of(replace(config, convention=convention))
    batch = PromptBatch.from_records(records)
    first, second = make_requests(batch, grids, tokens, seeds, setting)
    np.testing.assert_array_equal(first.video_grid_thw, [[1, 4, 4]])
    np.testing.assert_array_equal(second.video_grid_thw, grids[1, 0])
    assert (first.seed, second.seed) == (7, 8)
    video = backbone().config.video_token_id
    for row, request in enumerate((first, second)):
        patches = 4 * tokens[row, 0], backbone().config.vision.patch_features
        assert request.pixel_values_videos.shape == patches
        assert (request.input_ids == video).sum() == tokens[row, 0]
        np.testing.assert_array_equal(request.mm_token_type_ids, 2 * (request.input_ids == video))
        assert (request.compact_ids == video).sum() == len(request.video_grid_thw)
        of_row = records["compact_ids"][row, : int(records["compact_length"][row])]
        for ids in (request.input_ids, request.compact_ids):
            np.testing.assert_array_equal(ids[ids != video], of_row[of_row != video])
    # The clips' first corners differ, so patches are the row's own.
    assert np.abs(first.pixel_values_videos[0] - second.pixel_values_videos[0]).max() > 0.01
    # The convention reaches the positions: pairs of one clip begin at the same row.
    rows = second.position_ids[1, second.mm_token_type_ids == 2]
    assert rows[0] == rows[1]
