"""The network: base encoder, adapters, classification head, precision and checkpoints. Knows no training loop and no files of
the pipeline.
"""
