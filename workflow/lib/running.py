"""``selftrans run``: the Snakemake command that it stands for, and experiments with changes."""

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from selftrans.config import check_name, experiment_path, load_experiment, parse_value
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import write_text

Target = Literal["all", "latents", "train", "generate", "evaluate", "figures", "tune", "report"]
PROFILES = Path("workflow/profiles")
NAME_LENGTH = 80


@dataclass(frozen=True)
class Call:
    """What is run."""

    experiments: tuple[str, ...] = ()
    """Names or files; those of ``config.yaml``, if there are none."""
    target: Target = "all"
    cores: str | None = None
    """CPU cores of this machine; all, if it is None."""
    gpus: int | None = None
    """GPUs of this machine that may be used; what a profile says, if it is None."""
    profile: str | None = None
    """A name in ``workflow/profiles``, or a folder."""
    dry_run: bool = False
    others: tuple[str, ...] = ()
    """Further options of Snakemake."""

    def words(self) -> list[str]:
        """Snakemake's command line.

        Raises:
            UserError: there is no such profile, or cores are given beside it.
        """
        words = ["snakemake"] + ([self.target] if self.target != "all" else [])
        if self.profile is None:
            words += ["--cores", self.cores or "all"]
        elif self.cores is not None:
            raise UserError("--cores: are of this machine (allowed: without --profile)")
        else:
            words += ["--workflow-profile", str(self._profile_folder())]
        if self.gpus is not None:
            words += ["--resources", f"gpu={self.gpus}"]
        words += [*(["--dry-run"] if self.dry_run else []), *self.others]
        if self.experiments:
            words += ["--config", f"experiments=[{','.join(self.experiments)}]"]
        return words

    def run(self) -> int:
        """Run Snakemake to its end, and return its exit code; signals are its own to answer."""
        process = subprocess.Popen([sys.executable, "-m", *self.words()])
        # Ctrl-C reaches both, a scheduler's or an operator's SIGTERM this process alone.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGTERM))
        return process.wait()

    def shown(self) -> str:
        """The command as one types it."""
        return shlex.join(self.words())

    def _profile_folder(self) -> Path:
        assert self.profile is not None
        for folder in (PROFILES / self.profile, Path(self.profile)):
            if folder.is_dir():
                return folder
        known = ", ".join(sorted(path.name for path in PROFILES.iterdir()))
        raise UserError(f"--profile: {self.profile!r} is unknown (allowed: {known}, or a folder)")


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """``runs.sit.training.learning_rate=2e-4`` and others, as the mapping of an experiment file.

    Raises:
        UserError: one of them is no assignment, or assigns within what another one assigns.
    """
    values: dict[str, Any] = {}
    for change in changes:
        key, separator, text = change.partition("=")
        parts = key.split(".")
        if not separator or not all(parts):
            raise UserError(f"--set: {change!r} is no assignment (allowed: key.of.a.file=value)")
        inner = values
        for part in parts[:-1]:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise UserError(f"--set: {key}: {part} is set to a value by another one")
        if parts[-1] in inner:
            raise UserError(f"--set: {key}: is set twice")
        inner[parts[-1]] = parse_value(text, f"--set: {key}")
    return values


def changed_name(name: str, changes: Sequence[str]) -> str:
    """The name of an experiment with changes: ``digits-learning_rate-2e-4``."""
    said = [change.partition("=")[0].split(".")[-1] + "-" + change.partition("=")[2]
            for change in changes]  # fmt: skip
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", "-".join([name, *said]))
    return plain[:NAME_LENGTH].rstrip("-")


def write_changed(
    reference: str, changes: Sequence[str], name: str | None = None
) -> tuple[Path, bool]:
    """Write an experiment that extends another one, beside it.

    What it leaves as it is, it shares with the experiment that it extends.

    Args:
        reference: name or path of that experiment.
        changes: assignments, as on the command line.
        name: of the new experiment; made of the changes, if it is None.

    Returns:
        Its path, and whether it is new.

    Raises:
        UserError: the changes are not allowed, or there is another file of that name.
    """
    parent = experiment_path(reference)
    if name is not None:
        check_name(name)
    path = parent.with_name(f"{name or changed_name(parent.stem, changes)}.yaml")
    changed = parse_changes(changes)
    if owned := {"extends", "name"} & changed.keys():
        raise UserError(f"--set: {min(owned)}: is set by this command (allowed: --name)")
    values = {"extends": parent.name, **changed}
    said = " ".join(f"--set {shlex.quote(change)}" for change in changes)
    text = f"# selftrans run {parent.stem} {said}\n{yaml.safe_dump(values, sort_keys=False)}"
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise UserError(f"{path}: exists with other content (allowed: another --name)")
        return path, False
    write_text(path, text)
    try:
        load_experiment(path)
    except UserError:
        path.unlink()
        raise
    return path, True
