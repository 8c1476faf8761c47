"""Where worker processes run. One driver per file; each is an ``Engine``."""
