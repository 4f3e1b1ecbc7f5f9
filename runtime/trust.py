"""What must be known of an artifact before any of its code runs: its digest, or who signed it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from runtime.errors import ArtifactError, UserError

DIGEST_VARIABLE = "ST3_REQUIRE_DIGEST"
SIGNATURE_VARIABLE = "ST3_REQUIRE_SIGNATURE"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class Trust(msgspec.Struct, frozen=True):
    """What is demanded of an artifact.

    Attributes:
        digests: hex sha256 of the manifests that are allowed, all if empty.
        keys: public keys of which one must have signed, none if empty.
    """

    digests: frozenset[str] = frozenset()
    keys: tuple[Path, ...] = ()

    @property
    def demanded(self) -> bool:
        """Whether anything is demanded."""
        return bool(self.digests or self.keys)


def trust_from(digest: str | None, key: str | Path | None) -> Trust:
    """What a caller demands, and the environment where the caller does not.

    Args:
        digest: ``sha256:`` and 64 hex digits; several with commas between. Else the variable ``ST3_REQUIRE_DIGEST``.
        key: a PEM file of a public key; several with colons between. Else the variable ``ST3_REQUIRE_SIGNATURE``.

    Raises:
        UserError: a digest of another form.
    """
    found = set()
    for text in _demands(digest, DIGEST_VARIABLE, "digest", ","):
        match = _DIGEST.fullmatch(text.lower())
        if match is None:
            raise UserError(
                f"the digest {text!r} must be sha256: and 64 hex digits; `st3-runtime inspect ARTIFACT` prints it"
            )
        found.add(match[1])
    keys = _demands(None if key is None else str(key), SIGNATURE_VARIABLE, "public key", os.pathsep)
    return Trust(frozenset(found), tuple(Path(text) for text in keys))


def demand_everywhere(digest: str | None, key: Path | None) -> None:
    """Demand it of all that this process and those it starts will load; raises as ``trust_from`` does."""
    trust_from(digest, key)
    for variable, value in ((DIGEST_VARIABLE, digest), (SIGNATURE_VARIABLE, key)):
        if value is not None:
            os.environ[variable] = str(value)


def _demands(given: str | None, variable: str, what: str, separator: str) -> list[str]:
    """What was given, else what the environment says. An empty demand is a mistake, never the lack of one."""
    source = f"the required {what}" if given is not None else variable
    text = os.environ.get(variable) if given is None else given
    if text is None:
        return []
    parts = [part.strip() for part in text.split(separator)]
    if not all(parts):
        raise UserError(f"{source} is empty, which would demand nothing; give a {what}, or leave it out")
    return parts


def check_trust(trust: Trust, folder: Path, manifest: bytes, digest: str) -> None:
    """Raise ``ArtifactError`` unless an artifact is what was demanded.

    Args:
        trust: what is demanded.
        folder: the artifact's.
        manifest: the bytes of its manifest, as they were read.
        digest: their hex sha256.
    """
    if trust.digests and digest not in trust.digests:
        raise ArtifactError(
            f"{folder} has the digest sha256:{digest}, which is not the required one; get the artifact again, or find "
            f"out who changed it"
        )
    if trust.keys:
        from runtime.signature import check_signature

        check_signature(folder, manifest, trust.keys)
