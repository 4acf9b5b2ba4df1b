"""Scripts to read and to run; their model and text need no hub."""
