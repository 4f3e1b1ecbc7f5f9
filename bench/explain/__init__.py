"""Why a layer of an artifact runs as it does, and what would make it faster."""
