"""Any text as LaTeX that pdflatex sets: what is special to TeX, and characters that its fonts do not have."""

from __future__ import annotations

import re
import unicodedata

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "`": r"\textasciigrave{}", "\N{RIGHT SINGLE QUOTATION MARK}": "'", "“": "``", "”": "''",
    "–": r"\textendash{}", "—": r"\textemdash{}", "…": r"\dots{}", "\N{NO-BREAK SPACE}": "~",
    "\N{NARROW NO-BREAK SPACE}": r"\,", "∞": r"$\infty$",
    "×": r"$\times$", "±": r"$\pm$", "·": r"$\cdot$", "−": "$-$", "↓": r"$\downarrow$", "↑": r"$\uparrow$",
    "→": r"$\rightarrow$", "≈": r"$\approx$", "≥": r"$\geq$", "≤": r"$\leq$", "≠": r"$\neq$", "√": r"$\surd$",
    "†": r"\textdagger{}",
}  # fmt: skip
CAPITALS = {"Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega"}
"""Greek capitals that do not look like Latin ones"""
LONG = 24
"""characters of a word that may have to be broken: hashes and paths"""
PIECE = 8


def escape(text: str) -> str:
    """Text as LaTeX; a character that no font of a usual TeX has is told by its code, so that the document compiles."""
    return " ".join(_word(word) for word in text.split(" "))


def _word(word: str) -> str:
    if len(word) <= LONG:
        return _characters(word)
    pieces = re.findall(rf".{{1,{PIECE}}}", word, re.DOTALL)
    return r"\allowbreak{}".join(_characters(piece) for piece in pieces)


def _characters(text: str) -> str:
    return "".join(map(_character, text)).replace("--", "-{}-") if text != "–" else "--"


def _character(char: str) -> str:
    if char in SPECIAL:
        return SPECIAL[char]
    if " " <= char <= "~" or "\N{LATIN CAPITAL LETTER A WITH GRAVE}" <= char <= "ÿ":
        return char
    form, name = unicodedata.decomposition(char), unicodedata.name(char, "")
    for tag, command in (("<super> ", "textsuperscript"), ("<sub> ", "textsubscript")):
        if form.startswith(tag):
            plain = "".join(chr(int(code, 16)) for code in form.removeprefix(tag).split())
            return rf"\{command}{{{escape(plain)}}}"
    if greek := re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", name):
        word = greek[2].replace("LAMDA", "LAMBDA")
        letter = word.lower() if greek[1] == "SMALL" else word.capitalize()
        if (greek[1] == "SMALL" and letter not in ("omicron", "final")) or letter in CAPITALS:
            return rf"$\{letter}$"
    return f"[U+{ord(char):04X}]"
