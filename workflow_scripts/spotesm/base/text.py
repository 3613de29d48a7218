"""Numbers as people write them."""


def duration(seconds: float) -> str:
    """Write a time as people do: 40 s, 12 min, 3 h 05 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def count(n: int, noun: str) -> str:
    """Write how many there are: 1 row, 2 rows."""
    return f"{n} {noun}{'s' * (n != 1)}"
