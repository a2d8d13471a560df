"""What the evidence of a gradual release says, and the move that follows. Pure: counts in, verdicts out; no clock, no database.

Every test is an e-process: P(it ever reaches 1/α) ≤ α while its null hypothesis holds (Ville 1939), so looks may come at any
time.
"""
