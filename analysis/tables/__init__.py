"""Tables, filled from a report's source: before any form of printing, and in each form.

`fill.fill` fills a table of the paper or ours, `effects.filled` makes those of main effects, `pivot.pivot` any other;
each returns a `filled.FilledTable`. `estimates` has the numbers of rows, `claims` what is compared by name, `compare`
the verdicts of a report, `protocol` refuses columns of two protocols, `notes` the sentences below, `search` the points
of guidance and temperature. `text`, `latex` and `html` print. Figures, verdicts and reports build on this room; it
imports `frame` and `stats` alone.
"""
