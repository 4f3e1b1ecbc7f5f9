"""Custom ops of the target cuda, one file each, named like the format whose buffers it reads; importing registers."""
