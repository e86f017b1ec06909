"""One file a preset: everything that it says, for every command, with the source of each value."""
