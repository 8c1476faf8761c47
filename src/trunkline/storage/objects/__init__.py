"""Where immutable bytes live: one small interface (``base``), one driver per file."""
