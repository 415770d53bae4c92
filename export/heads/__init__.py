"""One file per model family; families.py finds them by file name. base.py says what a head is."""
