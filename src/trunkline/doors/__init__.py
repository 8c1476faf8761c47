"""Doors: other systems' own APIs, each a thin translation onto the same services; they hold no state and no logic."""
