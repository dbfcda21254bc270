"""How a number is printed, and how a difference is put in words."""

from __future__ import annotations

FINEST = 6
"""decimals, at most, of a difference that fewer would print as zero"""


def number(value: float, decimals: int) -> str:
    """A number with a real minus sign; thousands are set apart."""
    return f"{value:,.{decimals}f}".replace("-", "−").replace(",", "\N{NARROW NO-BREAK SPACE}")


def signed(value: float, decimals: int) -> str:
    """A difference: with its sign, but for what is printed as zero."""
    if not round(value, decimals):
        return number(0.0, decimals)
    return ("+" if value > 0 else "") + number(value, decimals)


def visible(value: float, decimals: int) -> int:
    """So many decimals, or as many more as it takes for a number not to be printed as zero, up to FINEST."""
    return next((each for each in range(decimals, FINEST + 1) if round(value, each)), decimals)


def apart(a: float, b: float, decimals: int) -> tuple[str, str]:
    """Two numbers of which a difference is told: with so many decimals, or as many more as tell them apart.

    Args:
        a: one number.
        b: the other.
        decimals: at least; FINEST at most, with which they may be printed alike.
    """
    enough = next((d for d in range(decimals, FINEST + 1) if number(a, d) != number(b, d)), decimals)
    return number(a, enough), number(b, enough)


def worded(change: float, better: str, decimals: int, unit: str = "") -> str:
    """A difference in words: "0.18 dB worse"; "the same to 0.01 dB" where it would be printed as zero.

    Args:
        change: how much more the first has than the second, in printed units.
        better: "lower" or "higher".
        decimals: with which it is printed.
        unit: behind the number; empty for none.
    """
    unit = f" {unit}" if unit else ""
    if not round(change, decimals):
        return f"the same to {10.0**-decimals:.{decimals}f}{unit}"
    return f"{number(abs(change), decimals)}{unit} {'better' if (change < 0) == (better == 'lower') else 'worse'}"
