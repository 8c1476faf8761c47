"""No column that holds a tree may be forgotten: what is not known as a root is deleted as garbage."""

from __future__ import annotations

from trunkline.services import root_sources
from trunkline.storage.db.schema import metadata
from trunkline.versioning.keepstore import ROOTS

NO_ROOTS = {
    "revisions.model_root": "the identity of a model's content; the tree is that of the commit or version behind its URI",
    "purged_roots.old_root": "a tree that was purged, to recognise it",
    "purged_roots.new_root": "the tree in its place, which other rows refer to",
}


def test_every_column_that_holds_a_tree_is_a_root() -> None:
    known = {source.name for source in (*ROOTS, *root_sources())}
    named = {
        f"{table.name}.{column.name}"
        for table in metadata.tables.values()
        for column in table.c
        if "root" in column.name or "tree" in column.name
    }
    assert named - known == set(NO_ROOTS)
    assert known - named == {"jobs.inputs"}
