"""Where files come from other than a client's own hands: URLs, buckets, archives. All of it is hostile until checked; what
comes out are changes for ``versioning``."""
