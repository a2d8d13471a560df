"""Predicts the labels of a file's rows, offline or through a gateway, in bounded memory. Knows no Triton and no database."""
