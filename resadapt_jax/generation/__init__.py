"""Answers from a backbone: prefill, decode with a KV cache, sampling."""
