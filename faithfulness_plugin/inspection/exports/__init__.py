"""Files that other tools read what was inspected from: one module per tool, each with one function that writes."""
