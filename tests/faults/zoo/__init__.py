"""The zoo: bad models, each a whole signed package, released on a real stack by the rules of real releases."""
