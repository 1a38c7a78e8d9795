"""Distances in pixels of [0, 1], as people write them. No torch here."""


def eps_text(eps: float) -> str:
    """In grey levels where they are whole, or quarters that no short decimal equals.

    >>> eps_text(8 / 255), eps_text(0.5 / 255), eps_text(0.5)
    ('8/255', '0.5/255', '0.5')
    """
    levels, short = eps * 255, f"{eps:g}"
    quarters = round(4 * levels) / 4
    near = quarters > 0 and abs(levels - quarters) < 1e-6
    return f"{quarters:g}/255" if near and (quarters.is_integer() or float(short) != eps) else short
