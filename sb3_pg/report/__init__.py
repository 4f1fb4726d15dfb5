"""Reports: a page of words, tables and figures, and the files that it is written to."""
