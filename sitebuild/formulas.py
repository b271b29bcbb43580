"""Formulas as MathML, which browsers show without a script."""

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">'
    r"(?:\\\((?P<inline>.*?)\\\)|\\\[(?P<block>.*?)\\\])</(?P=tag)>",
    re.DOTALL,
)
DOUBLE_STRUCK = {"1": "\U0001d7d9", "E": "\U0001d53c"}
"""Browsers know no `mathvariant` but `normal`: other letters are characters of their own."""
_DOUBLE_STRUCK = re.compile(r'<m[in] mathvariant="double-struck">(.)</m[in]>')


def typeset(page: str) -> str:
    """The page's HTML with MathML in place of what ``pymdownx.arithmatex`` marked."""
    return _FORMULA.sub(_mathml, page)


def _mathml(match: re.Match[str]) -> str:
    block = match["block"] is not None
    latex = html.unescape(match["block"] if block else match["inline"]).strip()
    formula = convert(latex, display="block" if block else "inline")
    formula = _DOUBLE_STRUCK.sub(lambda letter: f"<mi>{DOUBLE_STRUCK[letter[1]]}</mi>", formula)
    # Wide formulas scroll by themselves, not the page.
    return f'<div class="formula">{formula}</div>' if block else formula
