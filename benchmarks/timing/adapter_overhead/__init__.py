"""What the term costs within the trainers of other libraries, beside those alone."""
