"""The gate: whether a candidate may be published, by paired tests on the same rows. Knows no journal."""
