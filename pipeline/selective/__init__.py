"""Selective prediction: coverage curve, abstention threshold, out-of-scope texts. Pure: arrays in, numbers out."""
