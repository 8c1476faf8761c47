"""Pure values and decisions shared by every layer: no I/O, no clock of its own, no state."""
