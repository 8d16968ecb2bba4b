"""Implementations of `shared.interfaces`: the only code that imports an I/O library."""
