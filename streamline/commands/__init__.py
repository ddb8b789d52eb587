"""The commands of the command line, one a file: `add_to` registers one with argparse, with how it is run.

A command is run with the options it was given and returns what to print on stdout.
"""

from . import budgets, calibrate, compare, devices, frontier, generate, models, peaks, plan, trace

COMMANDS = (generate, compare, plan, frontier, budgets, models, trace, devices, calibrate, peaks)

__all__ = ["COMMANDS"]
