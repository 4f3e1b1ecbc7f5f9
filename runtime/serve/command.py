"""``st3 serve``: the options, and what is said on the terminal."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from runtime.command import trust_options
from runtime.errors import UserError
from runtime.names import named
from runtime.serve.settings import Settings
from runtime.trust import demand_everywhere

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from runtime.serve.models import Models

    _F = TypeVar("_F", bound=Callable[..., Any])

_DEFAULT = Settings()
_NEEDS = ("aiohttp", "prometheus_client")


def _option(name: str, kind: Any, text: str) -> Callable[[_F], _F]:
    key = name.strip("-").replace("-", "_")
    key = key if hasattr(_DEFAULT, key) else f"{key}_s"
    return click.option(name, key, type=kind, default=getattr(_DEFAULT, key), show_default=True, help=text)


# -h, which the commands of both command lines have
@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("artifacts", nargs=-1, required=True, metavar="[NAME=]ARTIFACT...")
@_option("--host", str, "Address to listen on; 0.0.0.0 for all.")
@_option("--port", click.IntRange(0, 65535), "Port to listen on; 0 for a free one.")
@_option("--workers", click.IntRange(1, 256), "Worker processes per model.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads per worker.  [default: the artifact's]")
@click.option(
    "--max-batch",
    type=click.IntRange(1, 4096),
    help="Most rows per request and batch.  [default: the largest compiled]",
)
@_option("--max-delay-us", click.IntRange(0), "Microseconds that a request waits for others to fill its batch.")
@click.option(
    "--queue-rows",
    type=click.IntRange(1),
    help="Rows that may wait; more are refused with 503.  [default: 8 batches, 256 at least]",
)
@trust_options
@click.option("--control", is_flag=True, help="Let clients load and unload models (/v2/repository).")
@_option("--max-connections", click.IntRange(1), "Open connections; more are refused with 503.")
@_option("--body-budget-mib", click.IntRange(1), "MiB of request bodies in memory at once; more are refused with 503.")
@_option("--read-timeout", click.FloatRange(0.1), "Seconds for a body to arrive, and for a large answer to be read.")
@_option("--idle-timeout", click.FloatRange(1), "Seconds until a silent connection is closed.")
@_option("--queue-timeout", click.FloatRange(0.1), "Seconds until a request that no worker takes is answered 503.")
@_option("--run-timeout", click.FloatRange(0.1), "Seconds until a worker that does not answer is replaced.")
@_option("--drain", click.FloatRange(0), "Seconds to go on taking requests after SIGTERM, not ready any more.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document when requests are taken.")
def serve(
    artifacts: tuple[str, ...],
    require_digest: str | None,
    require_signature: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Serve ARTIFACTS (folders are searched) over HTTP with the open inference protocol (KServe v2).

    SIGTERM and Ctrl-C finish what was taken and leave; SIGHUP loads what is new or has changed on disk, without
    losing a request. /metrics is for Prometheus.
    """
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"st3 serve needs {' and '.join(missing)}, which the extra has: pip install 'st3[serve]'")
    from runtime.serve.server import serve as run

    demand_everywhere(require_digest, require_signature)  # the workers load, and inherit it
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

    def started(host: str, port: int, models: Models) -> None:
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        names = [model.name for model in models.all()]
        if as_json:
            click.echo(msgspec.json.encode({"url": url, "models": names}).decode())
            sys.stdout.flush()
        else:
            click.echo(f"serving {', '.join(names)} at {url}/v2 (metrics: {url}/metrics)", err=True)

    asyncio.run(run([named(text) for text in artifacts], Settings(**options), started))
