"""Load on ``st3 serve``: throughput, latency, reload, stop, killed workers, malformed requests, memory."""
