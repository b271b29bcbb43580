"""TFLOP/s of a GPU: what ``selftrans check-gpu`` measured, over what config.yaml states."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from selftrans.config import validated
from selftrans.runtime.files import read_fields
from workflow.lib.settings import RatesConfig


class Rates(NamedTuple):
    """TFLOP/s of a GPU by arithmetic, and where they were measured."""

    values: RatesConfig
    measured_on: str | None = None
    """The card; None where they are stated."""


def known_rates(path: Path, stated: RatesConfig, here: Sequence[str]) -> Rates:
    """The measured rates of this machine's card, else the stated ones.

    A machine without a card, as a login node, takes those of the only card that was measured.

    Args:
        path: what ``selftrans check-gpu`` wrote, if it did.
        stated: of what was not measured.
        here: names of this machine's cards.

    Raises:
        UserError: the file is damaged, or a rate in it is not one.
    """
    if not path.exists():
        return Rates(stated)
    machines = read_fields(path, machines=dict)["machines"]
    measured = {
        name: machine["rates"]
        for name, machine in machines.items()
        if isinstance(machine, dict) and machine.get("rates") and not machine.get("miniature")
    }
    card = next((name for name in here if name in measured), None)
    if not here and len(measured) == 1:
        (card,) = measured
    if card is None:
        return Rates(stated)
    where = f"{path}: {card}: rates"
    return Rates(validated(RatesConfig, stated.model_dump() | dict(measured[card]), where), card)
