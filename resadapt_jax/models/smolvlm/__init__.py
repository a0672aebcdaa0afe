"""SmolVLM2's encoders as pure functions of a parameter tree (arXiv:2504.05299)."""
