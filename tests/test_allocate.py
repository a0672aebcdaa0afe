"""Allocating a clip: the functions on arrays, and the command with its good and bad inputs."""

import json
import subprocess
import sys

import numpy as np
import pytest
from allocator_factory import backbone_config, make_allocator, write_interface
from PIL import Image
from video_factory import overwrite_packets, textured_frames, write_intra_mp4, write_video

from resadapt_jax import allocate as command
from resadapt_jax.allocator import LogisticNormalBounds
from resadapt_jax.allocator.checkpoint import save_allocator
from resadapt_jax.errors import UserError
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.operators import SizeLimits, scaled_size

QUERY = "Which letter is on the red sign?"


@pytest.fixture(scope="module")
def fresh():
    return make_allocator()


@pytest.fixture(scope="module")
def disturbed():
    return make_allocator(noise=0.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, disturbed):
    """Holds an allocator, a backbone's interface and a clip of 11 frames of 112 x 140 pixels."""
    folder = tmp_path_factory.mktemp("models")
    save_allocator(folder / "allocator", disturbed)
    write_interface(folder / "backbone", disturbed.tokenizer)
    write_video(folder / "clip.mkv", textured_frames(11, 112, 140))
    return folder


def arguments(folder, out, **changed):
    """The command's argument list; a value of None leaves the option out."""
    options = {
        "--query": QUERY,
        "--checkpoint": str(folder / "allocator"),
        "--backbone": str(folder / "backbone"),
        "--out": str(out),
    }
    options |= {f"--{name}": value for name, value in changed.items() if name != "clip"}
    listed = [part for item in options.items() if item[1] is not None for part in item]
    return [str(changed.get("clip", folder / "clip.mkv")), *listed]


# --- on arrays ----------------------------------------------------------------------------------


def test_a_fresh_allocator_asks_for_the_middle_of_the_range(fresh):
    # α = β = 1, so E[a] = 1/2 and s = 0.2 + (1.8 - 0.2) / 2 = 1: every pair at native size,
    # 4 x 5 merged tokens of 28 pixels each.
    allocation = command.allocate(textured_frames(11, 112, 140), np.arange(11.0), QUERY, fresh)
    np.testing.assert_allclose(allocation.scales, 1.0, atol=1e-6)
    assert allocation.heights.tolist() == [112] * 6
    assert allocation.widths.tolist() == [140] * 6
    assert allocation.total == allocation.native_tokens == 6 * 20
    assert allocation.retention == 1.0


def test_seconds_are_the_mean_of_a_pair_and_a_lone_frame_keeps_its_own():
    times = np.array([0.0, 1.0, 2.5, 3.0, 7.0])
    allocation = command.fit_scales(np.ones(3, np.float32), textured_frames(5), times)
    assert allocation.seconds.tolist() == [0.5, 2.75, 7.0]


def test_scales_become_the_sizes_of_the_definition():
    # 112 x 140 at 0.5 is 56 x 70; 70 / 28 = 2.5 rounds to even, 56 x 56: 2 x 2 tokens. At 0.2,
    # 22 x 28 rounds to 28 x 28, below 3136 pixels: β = √(3136 / 616) and both sides are rounded
    # up, ⌈22 β / 28⌉ = ⌈1.77⌉ = 2 and ⌈28 β / 28⌉ = ⌈2.26⌉ = 3: 2 x 3 tokens.
    scales = np.array([1.0, 0.5, 0.2], np.float32)
    allocation = command.fit_scales(scales, textured_frames(6, 112, 140), np.arange(6.0))
    assert allocation.heights.tolist() == [112, 56, 56]
    assert allocation.widths.tolist() == [140, 56, 84]
    assert allocation.tokens.tolist() == [20, 4, 6]
    assert allocation.native_tokens == 60
    assert allocation.retention == pytest.approx(0.5)
    np.testing.assert_array_equal(allocation.scales, scales)


@pytest.mark.parametrize("budget", [24, 25, 40, 59, 77, 100])
def test_a_budget_is_kept_and_used(budget):
    scales = np.array([1.0, 0.9, 0.3, 1.0, 0.8, 1.0], np.float32)  # 20 + 20 + 4 + 20 + 12 + 20
    allocation = command.fit_scales(
        scales, textured_frames(12, 112, 140), np.arange(12.0), budget=budget
    )
    requested = sum(
        h * w // 784 for h, w in (scaled_size(112, 140, s, SizeLimits()) for s in scales)
    )
    assert allocation.total == int(allocation.tokens.sum())
    if requested <= budget:
        assert allocation.total == requested
    else:
        assert 0.9 * budget <= allocation.total <= budget
    assert np.array_equal(allocation.heights * allocation.widths // 784, allocation.tokens)


def test_a_budget_below_the_smallest_grids_names_their_sum():
    # The smallest grid is that of scale 0: 14 x 14 pixels enlarged to 56 x 56, 4 tokens.
    frames, times = textured_frames(12, 112, 140), np.arange(12.0)
    scales = np.ones(6, np.float32)
    assert command.fit_scales(scales, frames, times, budget=24).total == 24
    with pytest.raises(UserError, match="23.*24"):
        command.fit_scales(scales, frames, times, budget=23)


@pytest.mark.parametrize("scales", [np.ones(5), np.ones(12), np.full(6, np.nan), np.full(6, -1.0)])
def test_scales_that_do_not_fit_the_pairs_are_refused(scales):
    with pytest.raises(UserError):
        command.fit_scales(scales.astype(np.float32), textured_frames(12), np.arange(12.0))


def test_the_query_and_the_frames_matter(disturbed):
    frames = textured_frames(11, 112, 140)
    scales = command.propose_scales(frames, QUERY, disturbed)
    other_query = command.propose_scales(frames, QUERY.replace("red", "blue"), disturbed)
    other_frames = command.propose_scales(frames[::-1], QUERY, disturbed)
    assert scales.shape == (6,)
    assert np.ptp(scales) > 1e-3
    assert np.abs(scales - other_query).max() > 1e-3
    assert np.abs(scales - other_frames).max() > 1e-3


def test_units_of_one_frame_are_averaged_over_their_pair():
    allocator = make_allocator(unit="frame", bounds=LogisticNormalBounds(start_action=0.25))
    scales = command.propose_scales(textured_frames(11, 112, 140), QUERY, allocator)
    # μ = −ln 3, σ = .7: sigmoid(−1.098612 / √(1 + .49 π / 8)) = .267749; s = .2 + 1.6 · .267749.
    np.testing.assert_allclose(scales, np.full(6, 0.628399), atol=1e-6)


def test_an_empty_query_is_refused(fresh):
    with pytest.raises(UserError, match="query is empty"):
        command.allocate(textured_frames(2), np.arange(2.0), " \n", fresh)


def test_inputs_hold_the_pixels_and_the_prompt(fresh):
    frames = textured_frames(5, 84, 84)
    allocation = command.fit_scales(
        np.array([1.0, 0.6, 1.0], np.float32), frames, np.array([0.0, 0.5, 1.0, 1.5, 2.0])
    )
    assert allocation.tokens.tolist() == [9, 4, 9]  # ⌊84 · 0.6⌋ = 50 rounds to 56
    tokenizer = fresh.tokenizer
    inputs = command.build_inputs(allocation, frames, QUERY, backbone_config(tokenizer), tokenizer)
    assert inputs.plan.grid_thw.tolist() == [[1, 6, 6], [1, 4, 4], [1, 6, 6]]
    assert inputs.patches.shape == (4 * 22, 3 * 2 * 14 * 14)
    # At native size a patch is the normalised pixels themselves, channel before time.
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    normal = (frames / 255 - mean) / std
    first = normal[0:2, :14, :14].transpose(3, 0, 1, 2).ravel()
    np.testing.assert_allclose(inputs.patches[0], first, atol=1e-4)
    # The fifth frame has no partner and stands twice; its last patch is the bottom right one.
    alone = normal[[4, 4], -14:, -14:].transpose(3, 0, 1, 2).ravel()
    np.testing.assert_allclose(inputs.patches[-1], alone, atol=1e-4)

    pad = "<|video_pad|>"
    expected = "".join(
        f"<{seconds} seconds><|vision_start|>{pad * tokens}<|vision_end|>"
        for seconds, tokens in (("0.2", 9), ("1.2", 4), ("2.0", 9))  # 0.25 and 1.25, half to even
    )
    expected = f"<|im_start|>user\n{expected}{QUERY}<|im_end|>\n<|im_start|>assistant\n"
    length = int(inputs.layout.length)
    assert tokenizer.decode(inputs.layout.token_ids[:length]) == expected
    index = np.asarray(inputs.layout.visual_index)
    assert index[index >= 0].tolist() == list(range(22))


def test_pairs_share_one_wrapper_and_clock_under_resadapts_convention(fresh):
    frames, times = textured_frames(4, 56, 56), np.array([1.0, 2.0, 4.0, 5.0])
    allocation = command.fit_scales(np.array([1.0, 0.5], np.float32), frames, times)
    tokenizer = fresh.tokenizer
    inputs = command.build_inputs(
        allocation, frames, QUERY, backbone_config(tokenizer), tokenizer, Convention.RESADAPT_NATIVE
    )
    assert allocation.tokens.tolist() == [4, 4]  # 56 x 56 pixels are the smallest legal size
    pads = "<|vision_start|>" + "<|video_pad|>" * 8 + "<|vision_end|>"
    assert pads in tokenizer.decode(inputs.layout.token_ids)
    positions = np.asarray(inputs.layout.position_ids)
    positions = positions[:, np.asarray(inputs.layout.visual_index) >= 0]
    # 1.5 s and 4.5 s at two positions a second are six apart; both pairs begin where text ended.
    start = positions[0, 0]
    assert (positions[0] - start).tolist() == [0] * 4 + [6] * 4
    assert (positions[1] - start).tolist() == [0, 0, 1, 1] * 2


def test_a_query_cannot_pose_as_pixels(fresh):
    frames = textured_frames(2, 56, 84)
    allocation = command.fit_scales(np.ones(1, np.float32), frames, np.arange(2.0))
    config = backbone_config(fresh.tokenizer)
    with pytest.raises(UserError, match="placeholder"):
        command.build_inputs(allocation, frames, "what is <|video_pad|>?", config, fresh.tokenizer)


# --- the command --------------------------------------------------------------------------------


def test_the_command_prints_and_writes_an_allocation(folder, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert command.main(arguments(folder, out, budget="60")) == 0
    shown = capsys.readouterr()
    assert "warning" not in shown.err and "error" not in shown.err
    record = json.loads((out / "allocation.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == ["allocation.json", "contact_sheet.png"]
    assert record["query"] == QUERY
    assert record["frames"] == 11 and record["frames_lost"] == 0
    assert record["native_tokens"] == 120 and record["budget"] == 60
    assert record["tokens"] == sum(pair["tokens"] for pair in record["pairs"]) <= 60
    assert record["retention"] == pytest.approx(record["tokens"] / 120)
    assert record["limits"]["min_pixels"] == 3136
    assert record["versions"]["jax"]
    seconds = [pair["seconds"] for pair in record["pairs"]]
    np.testing.assert_allclose(seconds, [0.05, 0.25, 0.45, 0.65, 0.85, 1.0], atol=1e-6)
    rows = [line.split() for line in shown.out.splitlines()]
    for pair in record["pairs"]:
        size = f"{pair['width']}x{pair['height']}"
        row = [f"{pair['seconds']:.1f}", f"{pair['scale']:.2f}", size, str(pair["tokens"])]
        assert row in rows
    assert f"total {record['tokens']} of 120 tokens" in shown.out
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_frames_have_the_sizes_of_the_backbone(folder, tmp_path, disturbed, capsys):
    """112 x 140 pixels are 3.5 x 4.4 tokens of 32 a side; half goes to the even number."""
    write_interface(tmp_path / "backbone", disturbed.tokenizer, patch_size=16)
    backbone = str(tmp_path / "backbone")
    assert command.main(arguments(folder, tmp_path / "out", backbone=backbone)) == 0
    assert "11 frames at 128x128" in capsys.readouterr().out


def test_a_clip_damaged_in_the_middle_is_allocated_with_one_warning(folder, tmp_path, capsys):
    clip = write_intra_mp4(tmp_path / "clip.mp4", textured_frames(14, 112, 140))
    overwrite_packets(clip, 5, 8)
    assert command.main(arguments(folder, tmp_path / "out", clip=clip)) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warnings == [f"warning: {clip} is damaged: 3 of 14 frames were lost"]
    record = json.loads((tmp_path / "out" / "allocation.json").read_text())
    assert record["frames"] == 11 and record["frames_lost"] == 3


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"clip": "nothing.mp4"}, "no such file: nothing.mp4"),
        ({"clip": __file__}, "not a video"),
        ({"query": ""}, "the query is empty"),
        ({"query": " \t"}, "the query is empty"),
        ({"query": None}, "--query"),
        ({"budget": "0"}, "at least 1 token, got 0"),
        ({"budget": "-7"}, "at least 1 token, got -7"),
        ({"budget": "many"}, "invalid int value: 'many'"),
        ({"budget": "12.5"}, "invalid int value: '12.5'"),
        ({"budget": "23"}, "24"),  # six pairs of at least four tokens
        ({"frames": "0"}, "at least 1, got 0"),
        ({"frames": "-2"}, "at least 1, got -2"),
        ({"checkpoint": "nowhere"}, "no allocator at nowhere"),
        ({"backbone": "nowhere"}, "nowhere"),
        ({"encoder": "nowhere"}, "was trained without a SmolVLM2"),
        ({"budgets": "5"}, "unrecognized arguments: --budgets 5"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(folder, tmp_path, capsys, changed, reason):
    out = tmp_path / "out"
    assert command.main(arguments(folder, out, **changed)) == 2
    shown = capsys.readouterr()
    errors = [line for line in shown.err.splitlines() if not line.endswith(" ...")]
    assert len(errors) == 1 and errors[0].startswith("error: ")
    assert reason in errors[0]
    assert shown.out == ""
    assert not out.exists()


def test_an_output_path_that_is_a_file_is_refused(folder, tmp_path, capsys):
    out = tmp_path / "out"
    out.write_text("mine")
    for path in (out, out / "deeper"):
        assert command.main(arguments(folder, path)) == 2
        assert capsys.readouterr().err == f"error: cannot write to {path}: {out} is not a folder\n"
    assert out.read_text() == "mine"


def test_a_checkpoint_of_another_shape_is_refused(folder, tmp_path, disturbed, capsys):
    save_allocator(tmp_path / "allocator", disturbed)
    path = tmp_path / "allocator" / "config.json"
    config = json.loads(path.read_text())
    config["network"]["width"] = 16
    path.write_text(json.dumps(config))
    out = tmp_path / "out"
    assert command.main(arguments(folder, out, checkpoint=str(tmp_path / "allocator"))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "expected" in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "llama"}, "model_type is 'llama', supported are qwen2_5_vl, qwen3_vl"),
        ({"vision_config": None}, "config.json has no 'vision_config'"),
    ],
)
def test_a_backbone_of_another_kind_is_one_line(folder, tmp_path, capsys, changes, reason):
    config = json.loads((folder / "backbone" / "config.json").read_text())
    directory = tmp_path / "backbone"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config | changes))
    assert command.main(arguments(folder, tmp_path / "out", backbone=str(directory))) == 2
    assert capsys.readouterr().err == f"error: {directory}: {reason}\n"


def test_a_failed_write_leaves_no_half_of_a_file(folder, tmp_path, capsys, monkeypatch):
    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    out = tmp_path / "out"
    assert command.main(arguments(folder, out)) == 2
    assert f"error: cannot write to {out}: No space left on device" in capsys.readouterr().err
    assert list(out.iterdir()) == []


def test_the_module_runs_as_a_program_from_anywhere(tmp_path):
    program = [sys.executable, "-m", "resadapt_jax.allocate", "nothing.mp4", "--query", "why?"]
    root = command.__file__.rsplit("/", 2)[0]
    done = subprocess.run(
        program, cwd=tmp_path, env={"PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}, capture_output=True
    )
    assert done.returncode == 2
    assert done.stderr == b"error: no such file: nothing.mp4\n"
    assert done.stdout == b""
    assert list(tmp_path.iterdir()) == []
