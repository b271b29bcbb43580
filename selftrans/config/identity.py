"""What identifies a run, a store, and what a job makes: the settings that define its numbers.

An identity holds the settings that differ from their defaults, and the version of the defaults. So
a key that is added later changes no identity. One that was written before, by whatever version, is
completed by the defaults of its own version and compared with what an experiment says now.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from selftrans.config.alignment import AlignmentConfig
from selftrans.config.base import ConfigModel
from selftrans.config.data import DatasetConfig
from selftrans.config.defaults import MISSING, RETIRED, VERSION, default_of
from selftrans.config.errors import validated
from selftrans.config.experiment import ExperimentConfig, RunConfig
from selftrans.config.model import BackboneConfig
from selftrans.config.sources import AnySource
from selftrans.config.user_code import is_own_class, source_digest
from selftrans.runtime.errors import ConfigError, shortened
from selftrans.runtime.seal import seal_of

# What may change without changing the numbers of a run: the list of checkpoints, and how the work
# is done. The precision does change them: a definition holds what `auto` evaluated to.
EXECUTION_FIELDS = {
    "checkpoints", "precision", "accumulate", "activation_checkpointing", "compile",
    "deterministic", "log_every", "save_minutes", "logger",
    "held_out_every", "profile",
}  # fmt: skip
# Where images, autoencoder and weights lie on a machine: what is in them is recorded by digests.
# The decoder defines samples, by its own digest, and no training.
LOCATION_FIELDS = {"path", "weights", "decoder", "annotations"}
NUMERIC_DATA_FIELDS = ("source", "image_size", "autoencoder", "latents")

Json = dict[str, Any]
M = TypeVar("M", bound=ConfigModel)


def identity(
    model: ConfigModel,
    version: int,
    *,
    only: Collection[str] | None = None,
    exclude: Collection[str] = (),
) -> Json:
    """The settings of a model that differ from the defaults of a version, as JSON.

    Args:
        model: the settings.
        version: of the defaults.
        only: keys to take; all, if it is not given.
        exclude: keys to leave out, here and in parts below.
    """
    settings = _own_class(model)
    if settings:
        exclude = {*exclude, "method", "kind"}
    for key in type(model).model_fields:
        if key in exclude or (only is not None and key not in only):
            continue
        value = getattr(model, key)
        if isinstance(value, ConfigModel):
            part = identity(value, version, exclude=exclude)
            default = default_of(type(model), key, version)
            if default in (MISSING, None) or part != _identity_of_json(
                type(value), default, version
            ):
                settings[key] = part
        else:
            dumped = model.model_dump(mode="json", include={key})[key]
            if dumped != default_of(type(model), key, version):
                settings[key] = dumped
    return settings


def _own_class(model: ConfigModel) -> Json:
    """What identifies a class of the user's own, wherever its file lies; else nothing."""
    if not is_own_class(model):
        return {}
    return {"class": type(model).__name__, "source": source_digest(type(model))}


def versioned_identity(
    model: ConfigModel,
    version: int,
    *,
    only: Collection[str] | None = None,
    exclude: Collection[str] = (),
) -> Json:
    """An identity with the version of its defaults, which ``restored`` takes back."""
    return {"defaults": version, **identity(model, version, only=only, exclude=exclude)}


def restored(model: type[M], values: Mapping[str, Any], where: str) -> M:
    """The settings that an identity with its version, as ``{"defaults": 1, ...}``, stands for.

    Raises:
        ConfigError: a line for each key that is wrong.
    """
    settings = {key: value for key, value in values.items() if key != "defaults"}
    version = values.get("defaults", VERSION)
    if type(version) is not int or not 1 <= version <= VERSION:
        raise ConfigError(f"{where}: defaults: {version!r} (allowed: 1 to {VERSION})")
    return validated(model, settings, where, version)


def _identity_of_json(model: type[ConfigModel], values: Mapping[str, Any], version: int) -> Json:
    """The identity of a default, which is JSON."""
    return {
        key: value
        for key, value in values.items()
        if key not in model.model_fields or value != default_of(model, key, version)
    }


def dataset_identity(data: DatasetConfig, *keys: str) -> Json:
    """What the named parts of a data set are a function of, wherever its files lie."""
    return versioned_identity(data, data.defaults, only=keys, exclude=LOCATION_FIELDS)


def numeric_data_fields(run: RunConfig) -> tuple[str, ...]:
    """Keys of the data file that define a run's numbers."""
    captions = run.model.condition == "caption"
    return (*NUMERIC_DATA_FIELDS, "text_encoder") if captions else NUMERIC_DATA_FIELDS


def run_definition(experiment: ExperimentConfig, run: str, seed: int) -> Json:
    """All settings that define the numbers of a run, its teachers' and encoders' included.

    Neither the list of checkpoints, nor the devices, nor the evaluation is among them.
    """
    settings, version = experiment.runs[run], experiment.defaults
    data, teachers = experiment.data, settings.teachers.values()
    data_fields = numeric_data_fields(settings)
    encoders = {use.name: data.encoders[use.name] for use in settings.encoders}
    return {
        "defaults": version,
        "seed": seed,
        "data": identity(data, version, only=data_fields, exclude=LOCATION_FIELDS),
        "model": identity(settings.model, version, exclude={"preset"}),
        "alignment": [identity(term, version) for term in settings.alignments.values()],
        "training": identity(settings.training, version, exclude=EXECUTION_FIELDS),
        "teachers": [run_definition(experiment, one.choice.run, seed) for one in teachers],
        "encoders": {
            name: identity(encoder, version, exclude=LOCATION_FIELDS)
            for name, encoder in encoders.items()
        },
    }


def tuned_definition(experiment: ExperimentConfig, run: str, keys: Collection[str]) -> str:
    """Digest of what defines a run beside its tuned keys, its steps and its seeds.

    Left out with the steps is what follows from them: a teacher's step, ``stop_after``, ``decay``.

    Args:
        experiment: the experiment.
        run: its run.
        keys: those that are tuned, as ``training.learning_rate``.
    """
    definition = run_definition(experiment, run, seed=0)
    parts = {key: definition[key] for key in ("data", "model", "training", "alignment", "encoders")}
    for key in ("training.decay", *keys):
        _remove(parts, key.split("."))
    below = [key.removeprefix("alignment.").split(".") for key in keys if "alignment." in key]
    for term in parts["alignment"]:
        for key_of_term in (["stop_after"], ["teacher", "step"], *below):
            _remove(term, key_of_term)
    return seal_of(parts)


def _remove(part: Any, keys: Sequence[str]) -> None:
    """Take a key out of a mapping, where it is in there; a key of a list is a number."""
    *above, last = keys
    for key in above:
        if isinstance(part, list) and key.isdecimal() and int(key) < len(part):
            part = part[int(key)]
        else:
            part = part.get(key) if isinstance(part, dict) else None
    if isinstance(part, dict):
        part.pop(last, None)


def run_differences(
    experiment: ExperimentConfig, run: str, seed: int, stored: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """What an experiment says of a run otherwise than a stored definition, key by key."""
    settings, data = experiment.runs[run], experiment.data
    version = stored.get("defaults", 1)  # the first definitions were full and named none
    if stored.get("seed") != seed:
        yield f"{prefix}seed (trained: {_shown(stored.get('seed'))}, now: {_shown(seed)})"
    yield from differences(
        data, stored.get("data"), version, f"{prefix}data",
        only=numeric_data_fields(settings), exclude=LOCATION_FIELDS,
    )  # fmt: skip
    model: BackboneConfig = settings.model
    yield from differences(
        model, stored.get("model"), version, f"{prefix}model", exclude={"preset"}
    )
    training = stored.get("training")
    yield from differences(
        settings.training, training, version, f"{prefix}training", exclude=EXECUTION_FIELDS
    )
    terms: list[AlignmentConfig] = list(settings.alignments.values())
    before = stored.get("alignment", [])
    if len(before) != len(terms):
        now = [identity(term, experiment.defaults) for term in terms]
        yield f"{prefix}alignment (trained: {_shown(before)}, now: {_shown(now)})"
    else:
        for number, (term, trained) in enumerate(zip(terms, before, strict=True)):
            yield from differences(term, trained, version, f"{prefix}alignment.{number}")
    teachers = list(settings.teachers.values())
    for number, (teacher, trained) in enumerate(
        zip(teachers, stored.get("teachers", []), strict=False)
    ):
        below = f"{prefix}teachers.{number}."
        yield from run_differences(experiment, teacher.choice.run, seed, trained, below)
    for name in sorted({use.name for use in settings.encoders}):
        trained = stored.get("encoders", {}).get(name)
        key = f"{prefix}encoders.{name}"
        yield from differences(data.encoders[name], trained, version, key, exclude=LOCATION_FIELDS)


def _shown(value: Any) -> str:
    """A setting for a message: in one line, which a damaged file may not have."""
    return shortened(str(value))


def differences(
    model: ConfigModel,
    stored: Any,
    version: int,
    prefix: str,
    *,
    only: Collection[str] | None = None,
    exclude: Collection[str] = (),
) -> Iterator[str]:
    """What a model says otherwise than a stored identity or full dump, key by key.

    A key that only one side has is a difference unless it equals its default.
    """
    if not isinstance(stored, Mapping):
        yield f"{prefix} (trained: {_shown(stored)}, now: {_shown(identity(model, version))})"
        return
    now = _own_class(model)
    if now:
        exclude = {*exclude, "method", "kind"}
    for key in type(model).model_fields:
        if key not in exclude and (only is None or key in only):
            now[key] = getattr(model, key)
    for key in sorted({*now, *stored} - {*exclude}):
        before = stored.get(key, MISSING)
        if before is MISSING:
            known = key in type(model).model_fields
            before = default_of(type(model), key, version) if known else MISSING
        if key not in now:
            if before != RETIRED.get(f"{type(model).__name__}.{key}", MISSING):
                yield f"{prefix}.{key} (trained: {before}, now: not a key)"
            continue
        value = now[key]
        if isinstance(value, ConfigModel):
            yield from differences(value, before, version, f"{prefix}.{key}", exclude=exclude)
            continue
        if key in type(model).model_fields:
            value = model.model_dump(mode="json", include={key})[key]
        if value != before:
            trained = "not a key" if before is MISSING else before
            yield f"{prefix}.{key} (trained: {_shown(trained)}, now: {_shown(value)})"


def same_images(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether what two stores recorded of their data, in any version, means the same images."""
    records = ((_source(record), record.get("image_size"), record.get("images"))
               for record in (first, second))  # fmt: skip
    return next(records) == next(records)


def _source(record: Mapping[str, Any]) -> Json | None:
    """The recorded source with the defaults of its version filled in."""
    source, version = record.get("source"), record.get("defaults", 1)
    if not isinstance(source, Mapping):
        return None
    for model in get_args(get_args(AnySource)[0]):
        if source.get("kind") in get_args(model.model_fields["kind"].annotation):
            keys = model.model_fields.keys() - LOCATION_FIELDS
            return {key: default_of(model, key, version) for key in keys} | dict(source)
    return dict(source)


def fingerprint(definition: Mapping[str, Any]) -> str:
    """SHA-256 of a definition, as it is stored."""
    return seal_of(definition)
