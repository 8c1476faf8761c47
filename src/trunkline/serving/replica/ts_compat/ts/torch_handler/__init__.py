"""Handlers that archives subclass or name."""
