"""The S3 door: branches and commits as buckets, files as objects, for everything that speaks S3."""
