"""What the person who starts the server decides; ``st3 serve --help`` says it in words."""

from __future__ import annotations

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the server. Times are in seconds unless the name says otherwise."""

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    threads: int | None = None
    max_batch: int | None = None
    max_delay_us: int = 0
    queue_rows: int | None = None
    control: bool = False
    max_connections: int = 4096
    body_budget_mib: int = 512
    read_timeout_s: float = 10.0
    idle_timeout_s: float = 60.0
    queue_timeout_s: float = 30.0
    run_timeout_s: float = 60.0
    drain_s: float = 1.0
    stop_timeout_s: float = 30.0
