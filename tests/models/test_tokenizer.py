"""Whatever a tokenizer's parser raises becomes one line."""

import pytest

from resadapt_jax.errors import UserError
from resadapt_jax.models.tokenizer import read_tokenizer


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("type"), "'type'"),
        (OSError("\n no file \n of that name"), "no file"),
        (RuntimeError(" \n"), "RuntimeError"),
        (TypeError(), "TypeError"),
    ],
)
def test_any_error_of_a_parser_is_one_line(error, reason):
    class Reader:
        @staticmethod
        def from_pretrained(directory, local_files_only):
            assert local_files_only
            raise error

    with pytest.raises(UserError) as caught:
        read_tokenizer("somewhere", Reader)
    assert str(caught.value) == f"no tokenizer in somewhere: {reason}"
