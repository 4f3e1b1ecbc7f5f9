"""Engines: who runs a payload. One file each; the file name is the key that a manifest carries."""
