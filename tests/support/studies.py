"""A study for tests, whose owners are given."""

from workflow.lib.study import Study

IMPORTED = {"file": "public.pt", "convention": "noise-at-1", "step": 5}


class SharingStudy(Study):
    """A study in which another experiment owns results, as an extension's parent would."""

    owners: dict[str, str] = {}  # noqa: RUF012

    def run_owner(self, experiment: str, run: str) -> str:
        return self.owners.get(run, experiment)

    def samples_owner(self, experiment: str, run: str, sampler: str) -> str:
        return self.owners.get(f"samples of {run}", experiment)
