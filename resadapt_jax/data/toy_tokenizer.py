"""A tokenizer for the embedded world, in the layout of Qwen2.5-VL's.

Byte-level BPE, so any text encodes (a real question about a real clip too); trained on the embedded
world's own sentences, so each of its words, timestamps and numbers is a single token.
"""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from resadapt_jax.data.toy_world import COLOURS, DIGITS, LETTERS, ToyWorldConfig, question_text

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Room for 256 bytes, the special tokens and every piece of the sentences: training stops by itself.
VOCABULARY_LIMIT = 768

# Qwen's chat markup without its default system turn, which would be a fifth of the toy's text.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _sentences(config: ToyWorldConfig) -> list[str]:
    """Everything that is said in the embedded world."""
    starts = [k * config.pair_seconds for k in range(config.num_pairs)]
    between_frames = 0.5 / config.frames_per_second
    stamps = [f"<{start + between_frames:.1f} seconds>" for start in starts]
    spans = [f" {start:g} to {start + config.pair_seconds:g}" for start in starts]
    questions = [question_text(t, c) for t in ("which", "how_many", "when") for c in COLOURS]
    shown = [f" {glyph}" for glyph in LETTERS + DIGITS]
    return [*stamps, *spans, *questions, *shown, "user\n", "assistant\n"]


def build_toy_tokenizer(config: ToyWorldConfig) -> PreTrainedTokenizerFast:
    """The embedded world's tokenizer with Qwen's special tokens and chat markup; deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(r"<\d+\.\d seconds>| ?[A-Za-z]+| ?\d+|\s|[^\sA-Za-z\d]"), "isolated"
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_LIMIT,
        min_frequency=1,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(config), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
