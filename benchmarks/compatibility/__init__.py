"""Which versions of other libraries the adapters were tested with, and what works."""
