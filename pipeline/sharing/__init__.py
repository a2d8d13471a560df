"""Gives a model to others: its card, and a folder as the Hugging Face hub knows it. No stage and no server imports it."""
