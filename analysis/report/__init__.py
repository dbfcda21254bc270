"""Reports: `build.build` makes index.html, report.md, paper.tex, tables/ and figures/ from a folder's source/.

`contents` says what a report holds and in which order; `html`, `markdown` and `latex` print it, with the `terms` before
the tables and the `facts` after them.
"""
