"""Shares as percentages that people read: 0 % and 100 % stand for exactly that."""

import math


def percent(share: float) -> str:
    """Return a share, 0 to 1, as a percentage that never claims certainty.

    >>> percent(0.912), percent(0.9985), percent(0.99999), percent(1.0), percent(0.0004)
    ('91%', '99.8%', 'over 99.9%', '100%', 'under 0.1%')
    """
    if share in (0.0, 1.0) or 0.005 < share < 0.995:
        return f"{share:.0%}"
    if share > 0.5:
        return f"{math.floor(share * 1000) / 10:.1f}%" if share < 0.9995 else "over 99.9%"
    return f"{math.ceil(share * 1000) / 10:.1f}%" if share >= 0.001 else "under 0.1%"
