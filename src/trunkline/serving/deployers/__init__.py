"""Where replicas run. One driver per file."""
