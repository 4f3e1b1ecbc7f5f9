"""Recipes. One file each, with a function ``recipe``; the file name, with ``-`` for ``_``, is the key."""
