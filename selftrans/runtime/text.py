"""Text in lines."""

from collections.abc import Callable


def filled(text: str, fits: Callable[[str], bool]) -> list[str]:
    """The words of a text in lines that fit; a word that does not is a line of its own."""
    lines: list[str] = []
    for word in text.split():
        if lines and fits(longer := f"{lines[-1]} {word}"):
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
