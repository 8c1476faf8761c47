"""Other people's ways to read a commit: as an ``fsspec`` file system, as a mounted folder, as a PyTorch dataset.

Clients of the API like any other. Each module needs a library that trunkline itself does not (the extras ``fs`` and ``mount``,
and torch); nothing here is imported before it is used.
"""
