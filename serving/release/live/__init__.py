"""Changes what serves: swaps, routes, rolls back; loads versions into Triton, checks and unloads them. Knows no caller's HTTP."""
