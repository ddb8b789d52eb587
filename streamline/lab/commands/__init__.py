"""The maintainer's commands of the command line; as in streamline/commands."""
