"""Differences that are shown of those that are there, by moderated and by paired t tests: python -m tests.bench.power.

Tables of 17 rows with 3 seeds, of which half differ from the base by 4 of its standard deviations. Aim: twice as many.
"""

import numpy as np

from analysis import stats
from tests.analysis.stats.simulated import UNEVEN, moderated, paired, shown, table

TABLES, ROWS, SEEDS, SHIFT, AIM = 200, 17, 3, 4.0, 2.0


def main() -> None:
    half = ROWS // 2
    for how in ("even", "log-normal"):
        random = np.random.default_rng(0)
        counts: dict[stats.Family, list[int]] = {"claim": [0, 0], "exploratory": [0, 0]}
        for _ in range(TABLES):
            rows = table(random, UNEVEN[how](random, ROWS), SEEDS)
            moved = [
                stats.estimate([x + SHIFT * (0 < i <= half) for x in e.values], e.keys) for i, e in enumerate(rows)
            ]
            for k, test in enumerate((paired, moderated)):
                gaps = test(moved)
                for family, count in counts.items():
                    count[k] += sum(shown(gaps, family)[:half])
        for family, (before, now) in counts.items():
            print(
                f"{how} rows, {family}: paired {before / TABLES / half:.0%}, moderated {now / TABLES / half:.0%},"
                f" {now / before:.1f} times as many (aim {AIM:g})"
            )


if __name__ == "__main__":
    main()
