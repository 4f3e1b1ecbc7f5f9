"""What this machine is and what it can do, for `st3 doctor` and `st3 explain`."""
