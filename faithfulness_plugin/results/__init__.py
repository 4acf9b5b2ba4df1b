"""The result schema, intervals, open-or-resume, and tables of every experiment."""
