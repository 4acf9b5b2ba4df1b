"""Features read through hooks."""
