"""No number has changed: every golden number, computed again, against the stored one."""

import pytest

from tests.golden.compute import FILES, TOLERANCES, computed, differences, stored


@pytest.mark.parametrize(("file", "key"), [(file, key) for file in FILES for key in FILES[file]])
def test_number_is_the_stored_one(file: str, key: str) -> None:
    found = list(differences(stored(file)[key], computed(file, key), TOLERANCES[file]))
    assert not found, f"{len(found)} numbers differ (old -> new):\n" + "\n".join(found[:12])


@pytest.mark.parametrize("file", FILES)
def test_every_stored_number_is_computed(file: str) -> None:
    assert stored(file).keys() == FILES[file].keys()
