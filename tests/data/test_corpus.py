"""From files of rows to batches: resumable, mixed, the same on every number of hosts."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from video_factory import block_frames, write_video

from resadapt_jax.data.batches import ALONE, HostShare
from resadapt_jax.data.corpus import CorpusConfig, open_corpus
from resadapt_jax.data.frame_sampling import SamplingConfig
from resadapt_jax.data.row import RowError
from resadapt_jax.errors import UserError
from resadapt_jax.operators.sizes import SizeLimits


def count_tokens(row, seconds):
    return 5 + sum(map(len, seconds)), 3


def encode(row, loaded, shape):
    return {
        "frames": loaded.frames,
        "frame_mask": loaded.frame_mask,
        "index": row.index,
        "skipped": loaded.skipped,
        "prompt": np.zeros(shape.prompt_tokens, np.int32),
    }


def write_rows(path, names, kind="video"):
    """A question about each of the media, under the media's name."""
    rows = [
        {
            "prompt": [{"role": "user", "content": f"<{kind}>What?" if name else "What?"}],
            f"{kind}s": [{kind: name}] if name else [],
            "reward_model": {"ground_truth": "A"},
            "extra_info": {"index": f"{path.stem} {at} {name}", "problem_type": kind},
        }
        for at, name in enumerate(names)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two corpora: three short clips, four long ones, a text and a bad row; three images."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(7):
        frames = block_frames(12 if number < 3 else 40, 56, 84) // (number + 1)
        write_video(folder / f"{number}.mp4", frames, codec="libx264")
    for number in range(3):
        Image.fromarray(block_frames(1, 56, 56)[0]).save(folder / f"{number}.png")
    clips = [f"{number}.mp4" for number in range(7)]
    write_rows(folder / "clips.jsonl", [*clips, "", "../0.mp4"])
    write_rows(folder / "images.jsonl", [f"{number}.png" for number in range(3)], "image")
    return folder


def opened(folder, files=("clips.jsonl",), share=ALONE, num_batches=9, encode=encode, **options):
    seed = options.pop("seed", 3)
    config = CorpusConfig(
        files=tuple(str(folder / file) for file in files),
        sampling=SamplingConfig(fps=2.0, min_frames=2, max_frames=8),
        **({"max_shapes": 2} | options),
    )
    return open_corpus(
        config,
        SizeLimits(),
        count_tokens,
        None,
        batch_size=4,
        num_batches=num_batches,
        seed=seed,
        share=share,
        encode=encode,
    )


def names(batches):
    return [batch["index"].tolist() for batch in batches]


def test_batches_hold_the_rows_that_can_be_used(folder):
    corpus = opened(folder)
    assert [shape.num_frames for shape in corpus.shapes] == [2, 8]
    batches = list(corpus.batches)
    assert len(batches) == 9
    for batch, number in zip(batches, corpus.schedule.shape, strict=True):
        shape = corpus.shapes[number]
        assert batch["frames"].shape == (4, shape.num_frames, shape.height, shape.width, 3)
        assert batch["prompt"].shape == (4, shape.prompt_tokens)
        assert set(batch["skipped"]) == {""}
    seen = Counter(sum(names(batches), []))
    assert set(seen) == {f"clips {n} {n}.mp4" for n in range(7)} | {"clips 7 "}
    assert set(seen.values()) <= {3, 4, 5, 6}  # 36 rows of eight


def test_the_report_tells_what_is_kept_dropped_and_run(folder):
    report = opened(folder).report
    assert f"{folder}/clips.jsonl: 9 rows, 8 kept, 1 dropped" in report
    assert "1 outside the media root" in report and "row 8: ../0.mp4" in report
    assert "epochs" in report
    assert "batches have 2 shapes" in report
    # Three clips of 1.2 s give two frames, as text does; four of 4 s give eight.
    assert "2 frames of 56 x 84, 16 + 16 tokens: 4 rows" in report
    assert "8 frames of 56 x 84, 16 + 16 tokens: 4 rows" in report
    once = opened(folder, num_batches=1).report
    assert "4 of its 8 rows are in no batch" in once


@pytest.mark.parametrize("hosts", [1, 2])
def test_resuming_in_an_epoch_gives_exactly_the_rows_that_are_left(folder, hosts):
    whole = names(opened(folder).batches)
    state = None
    for index in range(hosts):
        share = HostShare(index, hosts)
        rows = slice(index * 4 // hosts, (index + 1) * 4 // hosts)
        first = opened(folder, share=share).batches
        head = [next(first)["index"].tolist() for _ in range(4)]  # of two rows an epoch has eight
        assert state in (None, first.get_state())
        state = json.loads(json.dumps(first.get_state()))
        resumed = opened(folder, share=share).batches
        resumed.set_state(state)
        assert head + names(resumed) == [batch[rows] for batch in whole]


def test_a_run_goes_on_with_another_number_of_hosts(folder):
    whole = opened(folder).batches
    tail = names(whole)[4:]
    halves = [opened(folder, share=HostShare(index, 2)).batches for index in range(2)]
    for half in halves:
        half.set_state(half.get_state() | {"batches": 4})
    assert [a + b for a, b in zip(*map(names, halves), strict=True)] == tail


@pytest.mark.parametrize("reading", [{"threads": 4}, {"workers": 2, "threads": 1}], ids=str)
def test_workers_change_nothing(folder, reading):
    one = list(opened(folder, threads=1).batches)
    batches = opened(folder, **reading).batches
    batches.set_state(batches.get_state() | {"batches": 3})
    assert batches.get_state()["batches"] == 3
    for a, b in zip(one[3:], batches, strict=True):
        np.testing.assert_array_equal(a["frames"], b["frames"])
        assert a["index"].tolist() == b["index"].tolist()
    assert batches.get_state()["batches"] == 9
    batches.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda lines: lines[:-1], r"rows_used was \[3\] and is \[2\]; fingerprint was"),
        (lambda lines: lines[::-1], r"rows_used was \[3\] and is \[3\]; fingerprint"),
        (
            lambda lines: [lines[0].replace("What?", "Why?"), *lines[1:]],
            r"fingerprint was \w{12} and is \w{12}\)",
        ),
    ],
    ids=["a row less", "another order", "another question"],
)
def test_a_place_among_other_rows_is_refused(folder, tmp_path, change, reason):
    names = ["0.png", "1.png", "2.png"]
    path = tmp_path / "rows.jsonl"
    write_rows(path, names, "image")
    how = {"media_root": str(folder), "num_batches": 3}
    state = opened(tmp_path, ("rows.jsonl",), **how).batches.get_state()
    opened(tmp_path, ("rows.jsonl",), **how).batches.set_state(state)
    path.write_text("\n".join(change(path.read_text().splitlines())))
    batches = opened(tmp_path, ("rows.jsonl",), **how).batches
    with pytest.raises(UserError, match=f"not those of the checkpoint .*{reason}.*--output-dir"):
        batches.set_state(state)


def test_every_row_says_where_it_is_from(folder):
    batch = next(opened(folder).batches)
    assert set(batch["file"]) == {str(folder / "clips.jsonl")}
    assert [f"clips {row}" for row in batch["row"]] == [
        index.rpartition(" ")[0] for index in batch["index"]
    ]


@pytest.mark.parametrize(
    ("now", "reason"), [("{nope", "is not JSON"), ('{"prompt": 1}', "missing column")]
)
def test_a_row_that_was_read_before_training_and_no_longer_is_ends_the_run(
    folder, tmp_path, now, reason
):
    path = tmp_path / "rows.jsonl"
    write_rows(path, ["0.png"], "image")
    corpus = opened(tmp_path, ("rows.jsonl",), media_root=str(folder), num_batches=1)
    # Overwritten in place, before the row is read again.
    with open(path, "r+") as file:
        file.write(now.ljust(path.stat().st_size))
    batches = opened_again(corpus)
    with pytest.raises(UserError, match=f"row 0 of {path} can no longer be read: .*{reason}"):
        next(batches)


def opened_again(corpus):
    """Its batches from their start, none read ahead yet."""
    corpus.batches.set_state(corpus.batches.get_state())
    return corpus.batches


def test_the_dropped_rows_are_listed(folder):
    (dropped,) = opened(folder).dropped
    reason = dropped.pop("reason")
    assert reason.startswith("../0.mp4 leaves")
    assert dropped == {
        "file": str(folder / "clips.jsonl"), "row": 8, "kind": "outside the media root"
    }  # fmt: skip


def test_files_are_mixed_by_weight(folder):
    files = ("clips.jsonl", "images.jsonl")
    corpus = opened(folder, files, weights=(1.0, 3.0), num_batches=20, max_shapes=1)
    of_images = Counter(name.split()[0] for batch in names(corpus.batches) for name in batch)
    assert of_images == {"clips": 20, "images": 60}
    assert corpus.schedule.epochs.tolist() == [20 / 8, 60 / 3]
    # Without weights every row is as likely: eight of eleven are clips, within two of 80.
    even = opened(folder, files, num_batches=20, max_shapes=1).schedule.corpus
    assert abs(np.sum(even == 0) - 80 * 8 / 11) < 2


def test_the_seed_decides_and_the_fingerprint_tells(folder):
    one, same, other = (opened(folder, seed=seed) for seed in (0, 0, 1))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.fingerprint != opened(folder, max_shapes=1).fingerprint
    shared = opened(folder, seed=0, share=HostShare(1, 2))
    assert one.fingerprint == shared.fingerprint


def test_media_lost_after_the_survey_make_a_row_that_says_so(folder, tmp_path):
    clip = write_video(tmp_path / "a.mp4", block_frames(20, 56, 84), codec="libx264")
    write_rows(tmp_path / "rows.jsonl", ["a.mp4"])
    corpus = opened(tmp_path, ("rows.jsonl",), num_batches=1)
    clip.unlink()
    batch = next(corpus.batches)
    assert set(batch["skipped"]) == {f"no such file: {clip}"}
    assert not batch["frames"].any() and not batch["frame_mask"].any()


def refuse_media(row, loaded, shape):
    if loaded.frame_mask.any():
        raise RowError("prompt too long", "by a token")
    return encode(row, loaded, shape)


def test_a_row_that_cannot_be_encoded_comes_without_media(folder):
    batch = next(opened(folder, encode=refuse_media).batches)
    with_media = [not name.endswith(" ") for name in batch["index"]]
    assert (batch["skipped"] == "prompt too long: by a token").tolist() == with_media
    assert not batch["frames"].any()


def test_a_survey_and_frames_are_kept_if_asked(folder, tmp_path):
    options = {"survey_cache": str(tmp_path / "s"), "frames_cache": str(tmp_path / "f")}
    first = list(opened(folder, **options).batches)
    assert len(list((tmp_path / "s").iterdir())) == 1
    assert len(list((tmp_path / "f").rglob("*.npz"))) == 7
    again = list(opened(folder, **options).batches)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a["frames"], b["frames"])


def test_media_may_lie_in_a_folder_of_their_own(folder, tmp_path):
    (tmp_path / "rows.jsonl").write_text((folder / "clips.jsonl").read_text())
    with pytest.raises(UserError, match="(?s)no row can be used.*no such file"):
        write_rows(tmp_path / "none.jsonl", ["0.mp4"])
        opened(tmp_path, ("none.jsonl",))
    corpus = opened(tmp_path, ("rows.jsonl",), media_root=str(folder))
    assert "8 kept" in corpus.report
    with pytest.raises(UserError, match="media_root is no folder"):
        opened(folder, media_root=str(folder / "nowhere"))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"files": ()}, "at least one corpus"),
        ({"files": "rows.parquet"}, "at least one corpus"),
        ({"weights": (1.0, 2.0)}, "1 files need as many weights"),
        ({"weights": (0.0,)}, "weights must be positive"),
        ({"max_shapes": 0}, "max_shapes must be at least 1"),
        ({"max_prompt_tokens": 0}, "max_prompt_tokens must be at least 1"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"max_length": 0}, "max_length must be at least 1"),
        ({"seconds_per_video": 0.0}, "seconds_per_video must be positive"),
    ],
)
def test_fields_that_cannot_work_are_named(fields, reason):
    with pytest.raises(UserError, match=reason):
        CorpusConfig(**({"files": ("rows.parquet",)} | fields))
