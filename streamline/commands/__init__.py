"""The commands of the command line, one a file: `add_to` registers one with argparse, with how it is run.

A command is run with the options it was given and returns what to print on stdout, with the exit status where that
is not 0.
"""
