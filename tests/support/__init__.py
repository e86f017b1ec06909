"""What several tests share: servers, tiny models, toy runs, rows and ways of reading what was written.

Nothing here asserts a behaviour of its own; no test imports from a `test_*.py` module, but from here.
"""
