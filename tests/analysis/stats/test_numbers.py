"""Numbers and differences in words: none that is printed as zero has a direction."""

import pytest

from analysis.stats import apart, number, signed, visible, worded


@pytest.mark.parametrize(
    ("change", "better", "decimals", "unit", "words"),
    [
        (-0.18, "higher", 2, "dB", "0.18 dB worse"),
        (0.18, "higher", 2, "dB", "0.18 dB better"),
        (0.0005, "lower", 4, "", "0.0005 worse"),
        (-1234.5, "lower", 1, "ms", "1\N{NARROW NO-BREAK SPACE}234.5 ms better"),
        (0.004, "higher", 2, "dB", "the same to 0.01 dB"),
        (-0.004, "higher", 2, "dB", "the same to 0.01 dB"),
        (0.0, "lower", 0, "", "the same to 1"),
    ],
)
def test_a_difference_in_words(change: float, better: str, decimals: int, unit: str, words: str) -> None:
    assert worded(change, better, decimals, unit) == words


@pytest.mark.parametrize("decimals", range(4))
def test_no_direction_is_told_of_a_difference_that_is_printed_as_zero(decimals: int) -> None:
    for change in (0.0, 0.4, 0.04, 0.004, 0.0004, 0.00004):
        for sign in (1, -1):
            text = worded(sign * change, "lower", decimals)
            told = text.endswith(("better", "worse"))
            assert told == any(digit in number(change, decimals) for digit in "123456789")
            assert (signed(sign * change, decimals)[0] in "+−") == told


def test_a_difference_that_is_shown_has_the_decimals_that_show_it() -> None:
    assert [visible(value, 2) for value in (0.5, 0.004, -0.0004, 0.0, 1e-9)] == [2, 3, 4, 2, 2]
    assert apart(0.7204, 0.7201, 3) == ("0.7204", "0.7201")
    assert apart(2.38, 3.29, 2) == ("2.38", "3.29")
    assert apart(1.0, 1.0, 2) == ("1.00", "1.00")
