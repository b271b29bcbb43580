"""What a job on a cluster goes by: the experiments as they were when it was submitted.

Snakemake reads the Snakefile again when a queued job starts (its issue 3234), by then perhaps of
an edited experiment. So the submitting process keeps the resolved files under names with their
digests, and its jobs carry the digest of the whole in their configuration.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selftrans.config.user_code import is_own_class, source_digest
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_fields, sha256_of, write_json, write_text
from selftrans.runtime.seal import seal_of
from workflow.lib.paths import SUBMITTED
from workflow.lib.study import Kept, Study, resolved

KEY = "submitted"
"""Of the configuration that a job gets from the process that submits it."""


def keep(study: Study, root: Path) -> str:
    """Keep what a call's jobs go by; returns its digest.

    Args:
        study: of the call.
        root: the folder of the Snakefile.
    """
    files = {}
    for path, settings in study.resolved_files().items():
        text = resolved(settings)
        digest = hashlib.sha256(text.encode()).hexdigest()
        kept = path.with_name(f"{path.stem}-{digest[:12]}{path.suffix}")
        write_text(kept, text)
        files[str(path)] = str(kept)
    content = {
        "settings": study.settings.model_dump(mode="json"),
        "requested": list(study.experiments),
        "parents": study.parents,
        "files": files,
        "workflow": workflow_files(root),
        "code": own_code(study),
    }
    digest = seal_of(content)
    write_json(Path(SUBMITTED, f"{digest}.json"), content)
    return digest


def study_of_job(digest: str, root: Path) -> Study:
    """The study that a job was submitted with.

    Raises:
        UserError: it cannot be had any more; every attempt at the job says so.
    """
    path = Path(SUBMITTED, f"{digest}.json")
    kinds: dict[str, Any] = {"settings": dict, "requested": list, "parents": dict, "files": dict}
    content = read_fields(path, **kinds, workflow=dict, code=dict)
    if seal_of(content) != digest:
        raise UserError(f"{path}: damaged, its content is not what was submitted")
    for kept in content["files"].values():
        if not Path(kept).stem.endswith(f"-{sha256_of(Path(kept))[:12]}"):
            raise UserError(f"{kept}: damaged, its content is not what was submitted")
    study = Study.of_job(Kept(**{key: content[key] for key in kinds}))
    for what, now in (("workflow", workflow_files(root)), ("code", own_code(study))):
        if changed := _changed(content[what], now):
            raise UserError(
                f"{changed}: was edited after this job was submitted;"
                " end Snakemake and start it again, its jobs resume"
            )
    return study


def workflow_files(root: Path) -> dict[str, str]:
    """SHA-256 of the Snakefile, the rules and the Python behind them."""
    parts = [root / "Snakefile", *sorted((root / "workflow").rglob("*"))]
    return {
        path.relative_to(root).as_posix(): sha256_of(path)
        for path in parts
        if path.suffix in (".smk", ".py") or path.name == "Snakefile"
    }


def own_code(study: Study) -> dict[str, str]:
    """Digests of the classes of the user's own, by experiment and run."""
    return {
        f"runs.{run} of {name}: {type(part).__name__}": source_digest(type(part))
        for name, experiment in study.known.items()
        for run, settings in experiment.runs.items()
        for part in (*settings.alignments.values(), settings.model)
        if is_own_class(part)
    }


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first name whose digest is another one, or none."""
    names = sorted({*before, *now})
    return next((name for name in names if before.get(name) != now.get(name)), "")
