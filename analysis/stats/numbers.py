"""How a number is printed."""

from __future__ import annotations


def number(value: float, decimals: int) -> str:
    """A number with a real minus sign; thousands are set apart."""
    return f"{value:,.{decimals}f}".replace("-", "−").replace(",", "\N{NARROW NO-BREAK SPACE}")


def signed(value: float, decimals: int) -> str:
    """A difference: with its sign, but for what is printed as zero."""
    if not round(value, decimals):
        return number(0.0, decimals)
    return ("+" if value > 0 else "") + number(value, decimals)
