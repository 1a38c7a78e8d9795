"""Distances in pixels of [0, 1], as people write them. No torch here."""


def eps_text(eps: float) -> str:
    """In grey levels where they are whole.

    >>> eps_text(8 / 255), eps_text(0.5)
    ('8/255', '0.5')
    """
    levels = eps * 255
    whole = round(levels)
    return f"{whole}/255" if whole and abs(levels - whole) < 1e-6 else f"{eps:g}"
