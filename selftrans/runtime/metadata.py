"""Typed metadata of tensor files, checked when it is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from selftrans.runtime.errors import UserError
from selftrans.runtime.tensors import load_tensors, save_tensors


class FileMetadata(BaseModel):
    """Metadata of one kind of tensor file; a subclass sets the kind and adds its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: ClassVar[str]
    digest: str = ""
    """SHA-256 of the tensors; empty until the file is written."""

    def save(self, path: Path, tensors: Mapping[str, Tensor]) -> str:
        """Write ``tensors`` with this metadata, atomically; returns their digest."""
        fields = self.model_dump(mode="json", exclude={"digest"})
        return save_tensors(path, tensors, self.kind, fields)

    @classmethod
    def load(cls, path: Path) -> tuple[dict[str, Tensor], Self]:
        """Tensors (on the CPU) and metadata of a file that ``save`` wrote.

        Raises:
            UserError: the file is absent, damaged or of another kind.
        """
        tensors, header = load_tensors(path, cls.kind)
        return tensors, cls.parse(header, path)

    @classmethod
    def parse(cls, header: Any, path: Path) -> Self:
        """The metadata of a header or of a description in JSON.

        Raises:
            UserError: a field is missing, unknown or of another type; names ``path`` and the field.
        """
        try:
            if isinstance(header, dict):
                header = {key: header[key] for key in header if key not in ("format", "kind")}
            return cls.model_validate(header)
        except ValidationError as error:
            problem = error.errors()[0]
            if problem["type"] == "value_error" and not problem["loc"]:  # of the whole
                raise UserError(f"{path}: {problem['ctx']['error']}") from None
            field = ".".join(map(str, problem["loc"])) or "content"
            raise UserError(
                f"{path}: not the metadata of a {cls.kind} file ({field}: {problem['msg']})"
            ) from None
