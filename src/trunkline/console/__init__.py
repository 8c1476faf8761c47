"""The console: plain pages rendered here, readable without scripts. Deeper views come later; this one lists what exists."""

from trunkline.console.pages import id_page, index_page, reference_page, stylesheet

__all__ = ["id_page", "index_page", "reference_page", "stylesheet"]
