"""Names of the model hub, as far as its local cache has them: nothing is ever fetched."""

from __future__ import annotations

import re
from pathlib import Path

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_name(name: str | Path) -> bool:
    """Whether `hf download NAME` could bring it. A path like `../llama` looks like a name and is none: the hub's own
    rules decide."""
    if not _NAME.fullmatch(str(name)):
        return False
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(str(name))
    except HFValidationError:
        return False
    return True


def cached(name: str | Path, file: str) -> Path | None:
    """The folder of `owner/name` in the cache, which has `file` in it; None where it is no name of the hub, or not
    there."""
    if not is_name(name):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(str(name), file)
    return Path(found).parent if isinstance(found, str) else None
