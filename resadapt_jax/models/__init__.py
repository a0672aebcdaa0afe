"""Ports of vision-language models: pure functions over trees whose paths are checkpoint keys."""
