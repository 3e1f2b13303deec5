"""Whether a step's result is there already, so that running a flow again does nothing twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError


def up_to_date_artifact(
    folder: str | Path, kind: str, settings: Mapping[str, Any], parents: Mapping[str, Artifact]
) -> Artifact | None:
    """The artifact in `folder` if it was made with these settings from these parents and is whole, else None."""
    try:
        found = Artifact.open(folder, kind)
    except ArtifactError:
        return None
    made_from = {name: parent["fingerprint"] for name, parent in found.manifest.parents.items()}
    wanted = {name: parent.manifest.fingerprint for name, parent in parents.items()}
    return found if made_from == wanted and found.manifest.settings == settings else None
