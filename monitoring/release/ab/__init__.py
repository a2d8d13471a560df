"""A/B tests between champion and challenger: intervals that hold at every look, a verdict,
the plan of a test, and what it reads. Its arms are those of the routing; it never changes them."""
