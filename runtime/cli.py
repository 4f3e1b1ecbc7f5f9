"""The ``st3-runtime`` command: what a machine that only runs artifacts needs, with Python's own argparse."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runtime.errors import UserError, refused_by_system

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS = {
    "check": ("runtime.cli:_add_check", "replay artifacts' golden inputs and compare the answers"),
    "run": ("runtime.cli:_add_run", "run an artifact on pictures or arrays"),
    "inspect": ("runtime.cli:_add_inspect", "show what an artifact holds, and its digest"),
    "keygen": ("runtime.cli:_add_keygen", "make a pair of ed25519 keys"),
    "sign": ("runtime.cli:_add_sign", "sign an artifact"),
    "verify": ("runtime.cli:_add_verify", "check an artifact's files and signature without running it"),
}
"""Command name to what adds its options and its ``action``, which is imported when it is called, and a line of help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if all is well, 1 if an artifact is not what it should be, 2 for a mistake of the user's."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if words[:1] == ["serve"]:
            return _serve(words[1:])
        given = _parse(words)
        status = given.action(given)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except BrokenPipeError:  # who reads us has seen enough
        sys.stderr.close()
        return 1
    except OSError as error:
        refusal = refused_by_system(error)
        if refusal is None:
            raise
        print(f"Error: {refusal}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)  # noqa: T201
        return 130
    assert isinstance(status, int)
    return status


def _serve(words: list[str]) -> int:
    """The server, which has packages of its own and its options with them."""
    try:
        command = importlib.import_module("runtime.serve.command").serve
    except ImportError as error:
        raise UserError(f"serving needs {error.name}: pip install 'st3-runtime[serve]'") from error
    command.main(words, prog_name="st3-runtime serve")
    return 0


def say(text: object = "") -> None:
    """Print a line."""
    print(text, flush=True)  # noqa: T201


def say_json(data: object) -> None:
    """Print one JSON document."""
    say(msgspec.json.encode(data).decode())


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Adds ``--require-digest`` and ``--require-signature``."""
    parser.add_argument("--require-digest", metavar="sha256:HEX", help="refuse all artifacts but this; commas between")
    parser.add_argument(
        "--require-signature",
        type=Path,
        metavar="PUBLIC.pem",
        help="refuse what the owner of this ed25519 key has not signed, before any of its code runs",
    )


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "st3-runtime",
        description="Runs artifacts that st3 compiled. ST3_REQUIRE_DIGEST and ST3_REQUIRE_SIGNATURE say for all "
        "commands what an artifact must be before its code runs.",
    )
    parser.add_argument("--version", action="version", version=f"st3-runtime {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("serve", help="serve artifacts over HTTP (needs the extra serve)", add_help=False)
    # the options of the others are not needed, nor what they import
    for name, (place, line) in _COMMANDS.items():
        command = commands.add_parser(name, help=line, description=line[0].upper() + line[1:] + ".")
        if arguments and arguments[0] == name:
            module, _, function = place.partition(":")
            getattr(importlib.import_module(module), function)(command)
    return parser.parse_args(arguments)


def _version() -> str:
    import importlib.metadata

    for package in ("st3-runtime", "st3"):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def _add_artifact(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="the artifact's folder")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def _add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: the artifact's)")


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "artifacts", nargs="+", type=Path, metavar="ARTIFACT", help="artifacts, or folders that are searched"
    )
    _add_threads(parser)
    add_trust(parser)
    _add_json(parser)
    parser.set_defaults(action=_check)


def _check(given: argparse.Namespace) -> int:
    from runtime.use import check_each

    results = []
    for result, line in check_each(given.artifacts, given.threads, given.require_digest, given.require_signature):
        results.append(result)
        if not given.json:
            say(line)
    if given.json:
        say_json(results)
    return 0 if all(result["passed"] for result in results) else 1


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_artifact(parser)
    parser.add_argument(
        "inputs",
        nargs="+",
        type=Path,
        metavar="INPUT",
        help=".npy arrays of uint8 pictures or float32 tensors (C, H, W), or, with Pillow, picture files, which are "
        "resized and normalised as the test pictures were",
    )
    _add_threads(parser)
    parser.add_argument("--top", type=int, default=1, metavar="N", help="classes to print per picture (default: 1)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the raw outputs to this .npy file (several outputs: .npz)"
    )
    add_trust(parser)
    _add_json(parser)
    parser.set_defaults(action=_run)


def _run(given: argparse.Namespace) -> int:
    from runtime.use import classify, lines_of

    if given.top < 1:
        raise UserError(f"--top must be 1 or more, got {given.top}")
    rows = classify(
        given.artifact,
        tuple(given.inputs),
        given.threads,
        given.top,
        given.out,
        given.require_digest,
        given.require_signature,
    )
    if given.json:
        say_json(rows)
        return 0
    for line in lines_of(given.inputs, rows):
        say(line)
    return 0


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    _add_artifact(parser)
    _add_json(parser)
    parser.set_defaults(action=_inspect)


def _inspect(given: argparse.Namespace) -> int:
    from runtime.inspect import describe, plain_lines

    if given.json:
        say_json(describe(given.artifact))
        return 0
    for line in plain_lines(given.artifact):
        say(line)
    return 0


def _add_keygen(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key", type=Path, default=Path("private.pem"), metavar="FILE", help="the private key (default: private.pem)"
    )
    parser.add_argument(
        "--public-key",
        type=Path,
        default=Path("public.pem"),
        metavar="FILE",
        help="the public key (default: public.pem)",
    )
    parser.set_defaults(action=_keygen)


def _keygen(given: argparse.Namespace) -> int:
    from runtime.signature import make_keys

    make_keys(given.key, given.public_key)
    say(f"{given.key} signs: keep it secret. {given.public_key} is for whoever runs what it signed.")
    return 0


def _add_sign(parser: argparse.ArgumentParser) -> None:
    _add_artifact(parser)
    parser.add_argument("--key", type=Path, required=True, metavar="PRIVATE.pem", help="an ed25519 private key")
    parser.set_defaults(action=_sign)


def _sign(given: argparse.Namespace) -> int:
    from runtime.artifact import open_artifact
    from runtime.signature import SIGNATURE, sign

    artifact = open_artifact(given.artifact)
    sign(artifact.folder, given.key)
    say(f"{artifact.folder / SIGNATURE} signs sha256:{artifact.digest}")
    return 0


def _add_verify(parser: argparse.ArgumentParser) -> None:
    _add_artifact(parser)
    parser.add_argument("--public-key", type=Path, metavar="PUBLIC.pem", help="demand a signature by this ed25519 key")
    parser.add_argument("--require-digest", metavar="sha256:HEX", help="demand this digest")
    _add_json(parser)
    parser.set_defaults(action=_verify)


def _verify(given: argparse.Namespace) -> int:
    from runtime.artifact import open_artifact
    from runtime.trust import trust_from

    trust = trust_from(given.require_digest, given.public_key)
    artifact = open_artifact(given.artifact, trust=trust)
    result: dict[str, Any] = {
        "artifact": str(artifact.folder),
        "digest": f"sha256:{artifact.digest}",
        "files": len(artifact.manifest.files),
        "signed": bool(trust.keys),
    }
    if given.json:
        say_json(result)
        return 0
    whose = "signed by that key" if trust.keys else "no signature was demanded"
    say(f"ok  {artifact.folder}  {result['digest']}, {result['files']} files as its manifest says, {whose}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
