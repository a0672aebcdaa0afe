"""Runs on files: prompts of several media and of none, rows that cannot be read, and resuming."""

import copy
import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image
from video_factory import textured_frames, write_video

from resadapt_jax.data.corpus import CorpusConfig
from resadapt_jax.data.frame_sampling import SamplingConfig
from resadapt_jax.data.load import empty_row
from resadapt_jax.data.row import RowError, parse_row, user_text
from resadapt_jax.data.shapes import BatchShape
from resadapt_jax.errors import UserError
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.losses import BackboneLossConfig
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.models.qwen2_5_vl.checkpoint import save_hf
from resadapt_jax.operators import SizeLimits
from resadapt_jax.rewards import RewardConfig
from resadapt_jax.training.config import BackboneTrainingConfig, TrainConfig
from resadapt_jax.training.corpus_prompts import RowEncoder
from resadapt_jax.training.grading import Grades
from resadapt_jax.training.loop import resume
from resadapt_jax.training.loop.metric_log import read_metrics
from resadapt_jax.training.loop.run_config import RunConfig
from resadapt_jax.training.mesh import MeshConfig
from resadapt_jax.training.open_data import open_data
from resadapt_jax.training.recipe import train
from resadapt_jax.training.rollout_config import RolloutConfig
from tests.training.toy_parts import ALLOCATOR, backbone

LIMITS = SizeLimits(min_pixels=28 * 28)


def record(question, answer, problem_type, **media):
    return {
        "prompt": [{"role": "user", "content": question}],
        **{kind: [{kind[:-1]: name} for name in names] for kind, names in media.items()},
        "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": {"problem_type": problem_type},
    }


ROWS = [
    record("<video>Which letter?", "A", "multiple choice", videos=["wide.mkv"]),
    record("<video>How many?", "3", "numerical", videos=["tall.mkv"]),
    record("<image>How many?", "4", "numerical", images=["small.png"]),
    record("One or two?", "two", "exact_match"),
    record(
        "<video> then <image> then <video>: which?",
        "B",
        "multiple choice",
        videos=["tall.mkv", "wide.mkv"],
        images=["small.png"],
    ),
    record("<video>Broken?", "yes", "exact_match", videos=["broken.mp4"]),
]


def write_corpus(folder, rows=ROWS):
    folder.mkdir(exist_ok=True)
    write_video(folder / "wide.mkv", textured_frames(8, 56, 84))
    write_video(folder / "tall.mkv", textured_frames(5, 84, 28))
    Image.fromarray(textured_frames(1, 30, 57)[0]).save(folder / "small.png")
    # Its header is whole, so that only decoding finds out.
    whole = write_video(
        folder / "broken.mp4",
        textured_frames(8),
        codec="libx264",
        container_options={"movflags": "faststart"},
    )
    data = bytearray(whole.read_bytes())
    start = data.index(b"mdat") + 8
    data[start:] = bytes(len(data) - start)
    whole.write_bytes(data)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def config(tmp_path):
    save_hf(tmp_path / "tiny", backbone().config, backbone().params)
    backbone().tokenizer.save_pretrained(tmp_path / "tiny")
    return TrainConfig(
        output_dir=str(tmp_path / "run"),
        mesh=MeshConfig(data=1),
        backbone=str(tmp_path / "tiny"),
        data=CorpusConfig(
            files=(write_corpus(tmp_path / "corpus"),),
            sampling=SamplingConfig(fps=10.0, min_frames=2, max_frames=6),
            max_shapes=1,
        ),
        limits=LIMITS,
        num_steps=2,
        batch_size=6,
        run=RunConfig(samples_every=1),
        allocator=ALLOCATOR,
        rollouts=RolloutConfig(
            num_allocations=2, token_capacity=40, decoding=DecodingConfig(max_new_tokens=2)
        ),
    )


def opened(config):
    return open_data(config, backbone().tokenizer, backbone().tokenizer)


# --- a row ---------------------------------------------------------------------------------------


def encoder(**how):
    tokenizers = {"tokenizer": backbone().tokenizer, "query_tokenizer": backbone().tokenizer}
    return RowEncoder(**tokenizers | {"convention": Convention.HF_5} | how)


def test_a_row_of_three_media_is_one_prompt(config):
    """Pairs: two of the tall video (4 of 5 frames), one of the image, three of the wide one."""
    data = opened(config)
    batch = next(data.batches)
    assert data.num_pairs == 6 and data.native_sizes == ((28, 56), (56, 84), (84, 28))
    (row,) = np.flatnonzero([" then " in question for question in batch["question"]])
    assert batch["question"][row] == "then  then : which?"
    length, entries = batch["compact_length"][row], batch["entry_index"][row]
    at = np.flatnonzero(entries >= 0)
    assert entries[at].tolist() == list(range(6)) and at[-1] < length
    video, image = backbone().config.video_token_id, backbone().config.image_token_id
    assert batch["compact_ids"][row, at].tolist() == [video] * 2 + [image] + [video] * 3
    # The image is there twice and counts once.
    mask = [1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1]
    assert batch["frame_mask"][row].astype(int).tolist() == mask
    assert batch["segment_ids"][row].tolist() == [0] * 4 + [2] * 2 + [0] * 6
    assert batch["native_index"][row].tolist() == [2, 2, 0, 1, 1, 1]
    text = backbone().tokenizer.decode(batch["compact_ids"][row, :length])
    for said in ("<0.1 seconds>", "<0.3 seconds>", "<|image_pad|>", "then"):
        assert said in text
    # Four frames of five, from 0 to .4 s: .0 .1 .3 .4. Six of eight: .0 .1 .3 .4 .6 .7.
    milliseconds = batch["pair_milliseconds"][row]
    np.testing.assert_allclose(milliseconds, [50, 350, 0, 50, 350, 650], atol=1)
    # The broken video leaves a text behind, which does not count.
    (broken,) = np.flatnonzero(~batch["valid"])
    assert "unreadable video" in batch["skipped"][broken]
    assert not batch["frame_mask"][broken].any() and (batch["entry_index"][broken] < 0).all()


def test_a_batch_of_rows_is_saved_for_a_replay(config, tmp_path):
    batch = next(opened(config).batches)
    path = resume.save_batch(tmp_path, 1, batch)
    jax.tree.map(np.testing.assert_array_equal, resume._read_batch(path, batch), batch)


def test_rows_are_not_surveyed_again_for_another_number_of_graders():
    known = encoder().settings()
    assert encoder(grading=RewardConfig(num_workers=3)).settings() == known
    assert encoder(grading=RewardConfig(general="paper")).settings() != known


def test_the_query_is_what_the_user_says():
    row = parse_row(
        {
            "prompt": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "<video>\nWho comes?"},
                {"role": "assistant", "content": "A man."},
                {"role": "user", "content": "When?"},
            ],
            "videos": [{"video": "a.mp4"}],
            "reward_model": {"ground_truth": "3"},
        }
    )
    assert user_text(row.messages) == "Who comes?\nWhen?"


@pytest.mark.parametrize(
    "mode, wanted", [("direct", "Reply with one number"), ("reasoning", "<think>")]
)
def test_an_instruction_follows_the_question(mode, wanted):
    row = parse_row(ROWS[1])
    plain = encoder().count_tokens(row, [np.zeros(2)])
    prompt = encoder(instruction=mode)._prompt(row, [np.zeros(2)])
    assert prompt.text.index("How many?") < prompt.text.index(wanted)
    assert wanted not in encoder()._prompt(row, [np.zeros(2)]).text
    more, query = encoder(instruction=mode).count_tokens(row, [np.zeros(2)])
    assert more > plain[0] and query == plain[1]


def test_what_is_measured_is_room_for_later_times():
    row, shape = parse_row(ROWS[0]), BatchShape(4, 56, 84, 64, 16)
    planned, _ = encoder().count_tokens(row, [np.array([8.8, 9.2])])
    loaded = empty_row(shape)
    loaded.medium[:] = 0
    loaded.times[:] = [9.8, 10.0, 10.1, 10.3]
    assert encoder()(row, loaded, shape)["compact_length"] <= planned


def test_a_placeholder_in_a_question_is_refused():
    row = parse_row(record("<video>what is <|video_pad|>?", "A", "multiple choice", videos=["a"]))
    with pytest.raises(RowError, match="2 visual placeholders for 1 entries"):
        encoder().count_tokens(row, [np.zeros(1)])


def without_a_question(*turns):
    return parse_row({"prompt": list(turns), "reward_model": {"ground_truth": "A"}})


@pytest.mark.parametrize("instruction", ["none", "reasoning"])
@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "system", "content": "Be brief."}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " "}],
    ],
)
def test_a_row_without_a_question_is_refused(turns, instruction):
    with pytest.raises(RowError, match="prompt: no turn of the user says anything"):
        encoder(instruction=instruction).count_tokens(without_a_question(*turns), [])


def test_turns_that_the_chat_template_refuses_are_a_reason():
    tokenizer = copy.copy(backbone().tokenizer)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(RowError, match="prompt: roles must alternate"):
        encoder(tokenizer=tokenizer).count_tokens(parse_row(ROWS[3]), [])


def test_a_prompt_longer_than_its_header_said_is_a_reason():
    """A clip that was to end before ten seconds and goes on for a thousand."""
    row = parse_row(ROWS[0])
    planned, query = encoder().count_tokens(row, [np.array([8.8, 9.2])])
    shape = BatchShape(4, 56, 84, planned - 4, query)
    loaded = empty_row(shape)
    loaded.medium[:] = 0
    loaded.times[:] = 1000.0
    with pytest.raises(RowError, match="longer than its header said: .* do not fit in"):
        encoder()(row, loaded, shape)


# --- what is refused -----------------------------------------------------------------------------


def test_an_unknown_problem_type_is_named(config, tmp_path):
    odd = record("Why?", "A", "riddle")
    files = (write_corpus(tmp_path / "odd", [*ROWS, odd, record("?", "A", "joke"), odd]),)
    config = replace(config, data=replace(config.data, files=files))
    reason = (
        "rows.jsonl has unknown problem types: 'riddle' of 2 rows, the first is row 6; "
        "'joke' of 1 rows, the first is row 7 .*rewards.default_task"
    )
    with pytest.raises(UserError, match=reason):
        opened(config)
    graded = replace(config, rewards=replace(config.rewards, default_task="general"))
    assert "9 rows, 9 kept" in opened(graded).report


def test_truths_that_no_answer_can_meet_are_dropped_and_counted(config, tmp_path):
    odd = record("How many?", "none at all", "numerical")
    files = (write_corpus(tmp_path / "odd", [*ROWS, odd]),)
    report = opened(replace(config, data=replace(config.data, files=files))).report
    assert "7 rows, 6 kept, 1 dropped" in report and "no one number in ground truth" in report


# --- runs ----------------------------------------------------------------------------------------


def test_an_allocator_is_trained_on_files(config, tmp_path, capsys):
    """Two steps of all six rows, the broken one in each of them."""
    (directory,) = train(config)
    assert (directory / "model.safetensors").exists()
    steps = read_metrics(tmp_path / "run/metrics.jsonl")
    assert all(np.isfinite([step["loss"], step["reward"]]).all() for step in steps)
    # A page has four rows, so a text or the broken one is on it: without pictures.
    shown = read_metrics(tmp_path / "run/samples.jsonl")
    assert len(shown) == 8 and (tmp_path / "run/samples/2.html").exists()
    assert [[], []] in [sample["scales"] for sample in shown]
    assert {"reward_multiple_choice", "reward_numerical", "reward_exact_match"} <= {
        name for step in steps for name in step
    }
    skipped = read_metrics(tmp_path / "run/skipped.jsonl")
    assert len(skipped) == 2 and all("unreadable video" in one["reason"] for one in skipped)
    assert {(one["file"], one["row"]) for one in skipped} == {(config.data.files[0], 5)}
    out = capsys.readouterr().out
    assert "6 rows, 6 kept" in out
    assert "skipped 2 rows: 2 unreadable video (1 different)" in out


def test_the_backbone_alone_is_trained_on_files(config, tmp_path):
    (directory,) = train(
        replace(
            config,
            num_steps=1,
            allocator=None,
            train_allocator=False,
            backbone_training=BackboneTrainingConfig(
                advantages="released", loss=BackboneLossConfig()
            ),
            rollouts=replace(
                config.rollouts,
                num_allocations=1,
                num_answers=2,
                decoding=DecodingConfig(max_new_tokens=2, temperature=1.0),
            ),
        )
    )
    assert (directory / "model.safetensors").exists()
    steps = read_metrics(tmp_path / "run/metrics.jsonl")
    assert np.isfinite([step["backbone_loss"] for step in steps]).all()


def test_a_run_goes_on_with_the_rows_that_are_left(config):
    """In the middle of an epoch, and in another process than the one that began it."""
    config = replace(config, num_steps=6, batch_size=2)
    whole = [batch["question"].tolist() for batch in opened(config).batches]
    # Six rows are an epoch of three batches; two of them ask the same.
    for epoch in (whole[:3], whole[3:]):
        asked = sorted(question for batch in epoch for question in batch)
        assert asked == sorted(user_text(parse_row(row).messages) for row in ROWS)
    data = opened(config)
    next(data.batches), next(data.batches)
    again = opened(config)
    again.batches.set_state(data.batches.get_state())
    assert [batch["question"].tolist() for batch in again.batches] == whole[2:]


def test_rows_that_do_not_count_teach_nothing(config, monkeypatch):
    """Whatever the answers to a row that could not be read are worth, the update is the same."""
    from resadapt_jax.training import step as training

    def weights(bonus):
        def grade(texts, mask, tasks, truths, config):
            parts = np.zeros(texts.shape, np.float32)
            parts[:, ::2] = 1.0
            parts[np.array(truths) == "yes"] = np.array(bonus)[:, None]  # the broken row
            return Grades({"accuracy": parts}, np.ones(texts.shape, bool))

        monkeypatch.setattr(training, "grade", grade)
        out = f"{config.output_dir}-{bonus[0]}"
        at_once = replace(config.optimizer, warmup_steps=0)
        one = replace(config, output_dir=out, num_steps=1, optimizer=at_once)
        (directory,) = train(one)
        steps = read_metrics(f"{out}/metrics.jsonl")
        return (directory / "model.safetensors").read_bytes(), steps[-1]["reward"]

    first = weights([0.0, 1.0])
    assert first == weights([1.0, 1.0])
    monkeypatch.setattr(RowEncoder, "__call__", count_all(RowEncoder.__call__))
    assert weights([0.9, 0.9])[1] != first[1]


def count_all(encode):
    """What would let a row that could not be read count."""
    return lambda self, *row: encode(self, *row) | {"valid": np.True_}


def test_batches_have_as_many_shapes_as_asked_for(config):
    config = replace(config, data=replace(config.data, max_shapes=2), num_steps=6, batch_size=1)
    shapes = {batch["frames"].shape for batch in opened(config).batches}
    assert len(shapes) == 2
