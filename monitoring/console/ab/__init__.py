"""The page A/B: the running test with its evidence and verdict, and the tests before it. Changes nothing."""
