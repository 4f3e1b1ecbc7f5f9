"""Stage two: turns a checkpoint into artifacts, in formats that the hardware can use."""
