"""Command lines: what parses arguments and prints. One file a command; `main.py` dispatches."""
