"""What an allocator reads of a question."""

from transformers import PreTrainedTokenizerBase


def encode_query(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a question alone: no markup, and none of the tokens a tokenizer may add."""
    return tokenizer.encode(text, add_special_tokens=False)
