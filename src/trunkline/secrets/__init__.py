"""Namespaces and secrets. Values leave only through ``value``; everything else shows the names of the keys."""
