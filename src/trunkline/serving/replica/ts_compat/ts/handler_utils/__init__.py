"""Helpers around handlers."""
