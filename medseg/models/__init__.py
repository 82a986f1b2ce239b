"""The networks of the book, one family a file, each readable top to bottom."""
