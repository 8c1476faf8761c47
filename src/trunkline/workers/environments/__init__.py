"""Where a user's commands run: a Python environment of this machine, or a container. ``choice.Environments`` is the way in."""
