"""Reports: `build.build` makes index.html, report.md, paper.tex, tables/ and figures/ from a folder's source/.

`contents` says what a report holds and in which order; `html`, `markdown` and `latex` print it: the picture of its
claims, the summary, the tables with the `terms` that each uses first, and the `facts`.
"""
