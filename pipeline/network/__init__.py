"""The network: base encoder, adapters, classification head, precision and the trained model on disk. Knows no training loop."""
