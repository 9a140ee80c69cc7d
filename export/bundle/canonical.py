"""Documents that have exactly one form as JSON, so that a signature or a digest over their bytes means the document."""

import json
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from export.errors import BundleError


class Canonical(BaseModel):
    """A frozen document; unknown keys, other types and numbers that are not finite are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def to_bytes(self) -> bytes:
        """The one JSON form of this document: sorted keys, no spaces, UTF-8."""
        document = self.model_dump(mode="json")
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def parse(cls, text: bytes, name: str) -> Self:
        """Read what `to_bytes` wrote; `name` is the document's, for the message.

        Raises:
            BundleError: unknown or missing fields, values out of range, or another form of the same JSON.
        """
        try:
            document = cls.model_validate_json(text)
        except ValidationError as error:
            raise BundleError(f"{name} is not valid: {first_problem(error)}") from error
        if document.to_bytes() != text:
            raise BundleError(f"{name} is not in its canonical form")
        return document


def first_problem(error: ValidationError) -> str:
    """The first thing pydantic found wrong, in one line."""
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]
