"""The public reproduction, audited."""
