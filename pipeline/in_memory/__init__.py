"""Trains in this process on rows that a caller holds: the functions of the stages, without their files and without DVC."""
