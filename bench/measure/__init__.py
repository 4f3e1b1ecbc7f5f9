"""``st3 bench``: artifacts in processes of their own, taking turns, and what is asked of each."""
