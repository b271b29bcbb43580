"""Formulas as MathML, which browsers show without a script."""

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">'
    r"(?:\\\((?P<inline>.*?)\\\)|\\\[(?P<block>.*?)\\\])</(?P=tag)>",
    re.DOTALL,
)
_INDICATOR = '<mn mathvariant="double-struck">1</mn>'
"""What the converter makes of `\\mathbb{1}`, and no browser shows."""


def typeset(page: str) -> str:
    """The page's HTML with MathML in place of what ``pymdownx.arithmatex`` marked."""
    return _FORMULA.sub(_mathml, page)


def _mathml(match: re.Match[str]) -> str:
    block = match["block"] is not None
    latex = html.unescape(match["block"] if block else match["inline"]).strip()
    latex = re.sub(r"\\mathrm\{(\w+)\}", r"\\text{\1}", latex)  # one word, upright
    formula = convert(latex, display="block" if block else "inline")
    formula = formula.replace(_INDICATOR, "<mi>&#x1D7D9;</mi>")
    formula = formula.replace("<mi>&#x0007E;</mi>", "<mo>&#x223C;</mo>")  # a relation, of sim
    # Wide formulas scroll by themselves, not the page.
    return f'<div class="formula">{formula}</div>' if block else formula
