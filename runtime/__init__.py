"""Stage three: runs an artifact, alone. Needs numpy and msgspec; an engine's own package only inside its file."""

from runtime.artifact import Artifact, Manifest, open_artifact
from runtime.engine import Engine, load
from runtime.errors import ArtifactError, UserError

__all__ = ["Artifact", "ArtifactError", "Engine", "Manifest", "UserError", "load", "open_artifact"]
