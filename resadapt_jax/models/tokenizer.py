"""The tokenizer of a Hugging Face directory, and what it makes of a question alone."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from resadapt_jax.errors import UserError


def read_tokenizer(directory: str | Path, reader: type = AutoTokenizer) -> PreTrainedTokenizerBase:
    """Reads a tokenizer, from the disk alone.

    Args:
        reader: class of transformers whose ``from_pretrained`` reads it.

    Raises:
        UserError: there is none that can be read.
    """
    try:
        return reader.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # a damaged file raises whatever the parsers of transformers do
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise UserError(f"no tokenizer in {directory}: {reason}") from error


def encode_query(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a question as the allocator reads it: no markup, and no token that is added."""
    return tokenizer.encode(text, add_special_tokens=False)
