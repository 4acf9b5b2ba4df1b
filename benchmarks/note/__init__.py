"""The note's experiments: the absolute-value network, scans, the audit, the results page."""
