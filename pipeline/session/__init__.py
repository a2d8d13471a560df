"""Choosing the inference session of an exported model: int8, the parity gate and golden answers. Knows no torch."""
