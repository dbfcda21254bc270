"""report.md: a report for a repository's page, in GitHub's Markdown, with the figures beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from analysis.figures import Drawing
from analysis.report.contents import Contents
from analysis.report.facts import Origin
from analysis.tables.filled import FilledTable
from analysis.tables.text import pipe_table


def report(contents: Contents) -> str:
    parts = [f"# {escape(contents.title)}", _figure(contents.picture) if contents.picture else ""]
    parts += [escape(contents.lead), *map(escape, contents.notes)]
    parts += ["## Summary" if contents.verdicts else "", _verdicts(contents), _in_one_line(contents.terms)]
    for heading, tables in contents.sections:
        parts.append(f"## {heading}")
        for filled in tables:
            parts += _table(filled, contents)
    parts += ["## Protocol", "What the numbers depend on beside the model."]
    protocols = [*contents.protocols, *([("search", contents.search)] if contents.search else [])]
    fields = [part for heading, fields in protocols for part in (f"### {escape(heading)}", _facts(fields))]
    parts += _folded(f"Fields of {', '.join(heading for heading, _ in protocols)}", fields)
    parts.append("## Environment")
    parts += _folded(", ".join(name for name, _ in contents.environment), [_facts(contents.environment)])
    parts += [
        "## Repeat a number",
        "Each row of a table comes from one cell per seed. The command repeats it; what is finished already is not done"
        " again.",
    ]
    commands = [_origin(origin, contents) for origin in contents.provenance]
    parts += _folded(f"Commands and cells of {len(commands)} configurations", commands)
    if contents.missing:
        parts.append(f"Tables of the paper that this report does not hold: {', '.join(contents.missing)}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _folded(summary: str, parts: Sequence[str]) -> list[str]:
    """Parts that a reader unfolds."""
    return [f"<details>\n<summary>{escape(summary)}</summary>", *parts, "</details>"]


def escape(text: str) -> str:
    """Text that GitHub shows as it is: in fd_digits and levels × levels nothing is emphasis, in <b> nothing a tag."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", text)


def _verdicts(contents: Contents) -> str:
    return "\n".join(
        f"- **{verdict.status}**: {escape(verdict.text)} [{escape(contents.names[verdict.table])}]"
        f"(#{_anchor(contents.names[verdict.table], contents)})"
        for verdict in contents.verdicts
    )


def _anchor(name: str, contents: Contents) -> str:
    """The id that GitHub gives to the heading of a table."""
    heading = next(filled.table.heading for filled in contents.tables if filled.table.name == name)
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _table(filled: FilledTable, contents: Contents) -> list[str]:
    """A table with its notes and figures, without what a table before it has said or explained."""
    id = filled.id
    meanings = _meanings(contents.glossary[id])
    notes = [escape(note) for note in contents.table_notes[id]]
    files = ", ".join(f"[{end}](tables/table-{id}.{end})" for end in ("csv", "tex"))
    figures = [_figure(drawing) for drawing in contents.illustrating(id)]
    parts = [f"### {escape(filled.table.heading)}", pipe_table(filled), *notes, meanings]
    return [*parts, f"This table as {files}.", *figures]


def _meanings(terms: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- **{escape(term)}**: {escape(meaning)}." for term, meaning in terms)


def _in_one_line(terms: Sequence[tuple[str, str]]) -> str:
    return " ".join(f"*{escape(term)}*: {escape(meaning)}." for term, meaning in terms)


def _figure(drawing: Drawing) -> str:
    alt = re.sub(r"([\[\]])", r"\\\1", drawing.alt)
    path = f"figures/{drawing.name}"
    return f"![{alt}]({path}.png)\n\n**{escape(drawing.title)}.** {escape(drawing.caption)} [PDF]({path}.pdf)"


def _facts(fields: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {escape(name)} | {escape(value)} |" for name, value in fields)])


def _origin(origin: Origin, contents: Contents) -> str:
    lines = [f"**{escape('; '.join(origin.rows))}**", "", "```sh", origin.command, "```", ""]
    for seed in origin.seeds:
        said = f"seed {seed.seed}, " if seed.seed is not None else ""
        more = f": {'' if seed.more.startswith('tokenbridge ') else 'add '}`{seed.more}`" if seed.more else ""
        run = f" ([MLflow]({contents.runs[seed.cell]}))" if seed.cell in contents.runs else ""
        lines.append(f"- {said}cell `{seed.cell}`{run}{more}")
    return "\n".join(lines)
