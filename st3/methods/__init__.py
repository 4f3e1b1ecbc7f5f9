"""Sparse training methods. One file each; the file name, with ``-`` for ``_``, is the key on the command line.

Each defines ``attach(model, plan)`` and, in ``PATTERNS`` and ``SCOPES``, which plans it takes.
"""
