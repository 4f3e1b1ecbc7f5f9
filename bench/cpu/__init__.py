"""The CPU engine's benchmark: native on sparse weights against the dense engines that a user could take instead."""
