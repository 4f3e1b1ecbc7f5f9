"""Measures artifacts side by side on this machine and reports what sparsity gains, with its uncertainty."""
