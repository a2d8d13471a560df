"""Chooses the inference session of an exported model: int8, the session gate and golden answers. Knows no torch."""
