"""The scale on which a metric's spread is even, and how a difference on it is told.

Fréchet distances and times vary in proportion to themselves: their logarithms are compared, and a difference is told as
a ratio. Shares k/N vary least near 0 and 1: their logits are compared, log((k + ½)/(N - k + ½)), and a difference is
told in shares, at the base's. All else is compared as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from analysis.stats.estimates import Estimate, estimate

Kind = Literal["plain", "log", "logit"]


@dataclass(frozen=True)
class Scale:
    kind: Kind = "plain"
    factor: float = 1.0
    """from a stored number to the printed one"""

    def of(self, value: Estimate, count: float | None = None) -> Estimate:
        """An estimate of printed numbers on this scale; one that has no place on it has no test.

        Args:
            value: in printed numbers, its values with their keys.
            count: the number N that a share is of; None where it is unknown, or the metric is no share.
        """
        if self.kind == "plain":
            return value
        values = [self.to(x, count) for x in value.values]
        if not all(map(math.isfinite, values)):
            return replace(value, mean=math.nan, half=None, values=tuple(values), error=None, left_out=(), over="")
        if value.seeds == 1:
            left_out = tuple(self.to(x, count) for x in value.left_out)
            error = None if value.error is None else value.error * self._slope(value.mean, count)
            return replace(value, mean=values[0], values=tuple(values), error=error, left_out=left_out)
        least = fmean(self._counting(x, count) for x in value.values)
        return replace(estimate(values, value.keys, over=value.over), least=least)

    def to(self, printed: float, count: float | None) -> float:
        """A printed number on this scale; not finite where it has no place there."""
        if self.kind == "plain":
            return printed
        if self.kind == "log":
            return math.log(printed) if printed > 0 else math.nan
        share = self._share(printed, count)
        return math.log(share / (1 - share)) if 0 < share < 1 else math.nan

    def _share(self, printed: float, count: float | None) -> float:
        """The share with the continuity correction that keeps 0 and 1 out (Anscombe 1956)."""
        share = printed / self.factor
        return share if count is None else (share * count + 0.5) / (count + 1)

    def _slope(self, printed: float, count: float | None) -> float:
        if self.kind == "log":
            return 1 / printed
        share = self._share(printed, count)
        return 1 / (share * (1 - share) * self.factor)

    def _counting(self, printed: float, count: float | None) -> float:
        """Variance of the logit of a share of N independent images, 1/(N·p·(1 - p)): no seed can vary less."""
        if self.kind != "logit" or count is None:
            return 0.0
        share = self._share(printed, count)
        return 1 / (count * share * (1 - share))

    def tell(self, difference: float, base: float) -> float:
        """A difference on this scale as it is told: in per cent of the base, in printed shares, or as it is.

        Args:
            difference: first minus second, on this scale.
            base: the second, on this scale.
        """
        if self.kind == "log":
            return 100 * math.expm1(min(difference, 700.0))
        if self.kind == "logit":
            return self.factor * (_expit(base + difference) - _expit(base))
        return difference

    def around(self, printed: float, half: float, corrected: float) -> tuple[float, float]:
        """How far an interval reaches below and above a printed number.

        Args:
            printed: the number, such as a share in per cent.
            half: half the interval's width on this scale.
            corrected: the number on this scale by its count, which a share of 0 or 1 has no other place by.
        """
        if self.kind == "plain":
            return half, half
        if self.kind == "log":
            return -printed * math.expm1(-half), printed * math.expm1(min(half, 700.0))
        middle = self.to(printed, None)
        middle = middle if math.isfinite(middle) else corrected
        below, above = -self.tell(-half, middle), self.tell(half, middle)
        return min(below, printed), min(above, self.factor - printed)

    @property
    def told_in_percent(self) -> bool:
        """Whether a difference is told as a ratio to the base."""
        return self.kind == "log"


def _expit(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0


PLAIN = Scale()
