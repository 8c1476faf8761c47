"""This folder goes on ``sys.path`` in a replica whose environment has no TorchServe: its ``ts`` is what handlers import."""
