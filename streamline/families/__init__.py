"""One file per kind of network: how it becomes a program, and how its own call signature feeds that program."""
