"""Custom ops of the target cuda, and what the compiler and the engine share about a GPU.

An op lies in the file that has the name of the format whose buffers it reads, and is registered when that is imported.
"""
