"""A tokenizer for the embedded world, in the layout of Qwen2.5-VL's.

Byte-level BPE, so any text encodes (a real question about a real clip too); trained on the embedded
world's own sentences, so each of its words, timestamps and numbers is a single token.
"""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from resadapt_jax.data.toy_questions import question_texts
from resadapt_jax.data.toy_signs import DIGITS, LETTERS
from resadapt_jax.data.toy_world import DEFAULT_WORLD, ToyWorldConfig
from resadapt_jax.models.prompt_builder import seconds_text

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


def _sentences(world: ToyWorldConfig) -> list[str]:
    """Everything that is said in a world."""
    # A pair's frames are half a second apart, so its mean time is a quarter past.
    stamps = [f"<{seconds_text(second + 0.25)} seconds>" for second in range(world.clock_seconds)]
    spans = [f" {second}.0 to {second + 1}.0" for second in range(world.clock_seconds)]
    questions = question_texts(world.tasks)
    shown = [f" {glyph}" for glyph in LETTERS + DIGITS]
    return [*stamps, *spans, *questions, *shown, "user\n", "assistant\n"]


def build_toy_tokenizer(world: ToyWorldConfig = DEFAULT_WORLD) -> PreTrainedTokenizerFast:
    """An embedded world's tokenizer with Qwen's special tokens and chat markup; deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(r"<\d+\.\d seconds>| ?[A-Za-z]+| ?\d+(?:\.\d)?|\s|[^\sA-Za-z\d]"), "isolated"
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
    tokenizer.train_from_iterator(_sentences(world), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
