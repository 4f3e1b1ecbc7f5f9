"""Ed25519 signatures of an artifact: ``manifest.sig`` holds the 64 bytes that sign those of ``manifest.json``.

The manifest has the digest of every other file, so it is all that needs a signature. Keys are PEM files (PKCS 8 and
SubjectPublicKeyInfo), as ``openssl genpkey -algorithm ed25519`` makes them. The package cryptography does the work.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from runtime.errors import ArtifactError, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SIGNATURE = "manifest.sig"
_LENGTH = 64
_KEY_BYTES = 1 << 14


def make_keys(private: Path, public: Path) -> None:
    """Write a new pair of keys; files that are there are never replaced.

    Raises:
        UserError: one of them exists or cannot be written.
    """
    tools = _tools()
    for path in (private, public):
        if path.exists():
            raise UserError(f"{path} exists, and a key that is overwritten is lost; give another name")
    key = tools.ed25519.Ed25519PrivateKey.generate()
    form, plain = tools.serialization.Encoding.PEM, tools.serialization.NoEncryption()
    secret = key.private_bytes(form, tools.serialization.PrivateFormat.PKCS8, plain)
    known = key.public_key().public_bytes(form, tools.serialization.PublicFormat.SubjectPublicKeyInfo)
    for path, content, mode in ((private, secret, 0o600), (public, known, 0o644)):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}); give another place") from error
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)


def sign(folder: Path, private: Path) -> None:
    """Write ``manifest.sig`` for the manifest that is there; who signs should have opened the artifact before.

    Raises:
        UserError: the key cannot be used, or the signature cannot be written.
    """
    from runtime.artifact import MANIFEST

    tools = _tools()
    try:
        key = tools.serialization.load_pem_private_key(_key_bytes(private), password=None)
    except (ValueError, TypeError, tools.unsupported) as error:
        raise UserError(
            f"{private} is no PEM private key without a password; `st3-runtime keygen` makes one"
        ) from error
    if not isinstance(key, tools.ed25519.Ed25519PrivateKey):
        raise UserError(f"{private} is no ed25519 key; `st3-runtime keygen` makes one")
    part = folder / (SIGNATURE + ".part")
    try:
        part.write_bytes(key.sign((folder / MANIFEST).read_bytes()))
        part.replace(folder / SIGNATURE)
    except OSError as error:
        raise UserError(f"{folder / SIGNATURE} cannot be written ({error.strerror}); make it writable") from error


def check_signature(folder: Path, manifest: bytes, public: Sequence[Path]) -> None:
    """Return if one of the keys signed the manifest.

    Args:
        folder: the artifact's, where ``manifest.sig`` lies.
        manifest: the bytes that are to be signed, as they were read.
        public: PEM files of the keys that are trusted.

    Raises:
        ArtifactError: there is no signature, or it is of none of the keys.
        UserError: a key cannot be read.
    """
    from runtime import files

    tools = _tools()
    keys = public_keys(public)
    try:
        signature = files.beginning(folder, SIGNATURE, _LENGTH + 1)
    except OSError as error:
        raise ArtifactError(
            f"{folder} is not signed ({SIGNATURE}: {error.strerror}), and unsigned code is forbidden here; get it from "
            f"who signs, or sign it: st3-runtime sign"
        ) from error
    for key in keys:
        try:
            key.verify(signature, manifest)
        except tools.invalid:
            continue
        return
    raise ArtifactError(
        f"the signature of {folder} is not by {' or '.join(path.name for path in public)}, or its manifest was "
        f"changed; do not use it"
    )


def public_keys(paths: Sequence[Path]) -> list[Any]:
    """The keys in PEM files.

    Raises:
        UserError: one cannot be read or is none, or the package cryptography is missing.
    """
    return [_public_key(_tools(), path) for path in paths]


def _public_key(tools: Any, path: Path) -> Any:
    try:
        key = tools.serialization.load_pem_public_key(_key_bytes(path))
    except (ValueError, tools.unsupported) as error:
        raise UserError(f"{path} is no PEM public key; `st3-runtime keygen` makes one") from error
    if not isinstance(key, tools.ed25519.Ed25519PublicKey):
        raise UserError(f"{path} is no ed25519 key; `st3-runtime keygen` makes one")
    return key


def _key_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_KEY_BYTES)
    except OSError as error:
        raise UserError(f"the key {path} cannot be read ({error.strerror}); give a PEM file") from error


def _tools() -> Any:
    """What is used of ``cryptography``, which only signing needs."""
    from types import SimpleNamespace

    try:
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise UserError(
            "signatures need the package cryptography: pip install 'st3-runtime[sign]' (or 'st3[sign]')"
        ) from error
    return SimpleNamespace(
        serialization=serialization, ed25519=ed25519, invalid=InvalidSignature, unsupported=UnsupportedAlgorithm
    )
