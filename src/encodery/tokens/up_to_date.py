"""Whether the result of a step exists already, so that running a flow again does nothing twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError


def up_to_date_artifact(
    folder: str | Path, kind: str, settings: Mapping[str, Any], parents: Mapping[str, Artifact]
) -> Artifact | None:
    """Return the artifact in `folder` if it is complete and made with these settings from these parents, else None."""
    try:
        artifact = Artifact.open(folder, kind)
    except ArtifactError:
        return None
    made_from = {name: parent["fingerprint"] for name, parent in artifact.manifest.parents.items()}
    expected = {name: parent.manifest.fingerprint for name, parent in parents.items()}
    return artifact if made_from == expected and artifact.manifest.settings == settings else None
