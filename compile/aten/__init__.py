"""Readers of torch's operators, by theme."""
