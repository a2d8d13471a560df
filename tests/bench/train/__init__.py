"""Measure training, with Hugging Face's Trainer as the control: `make bench-train`."""
