"""Networks as programs, and the loop that runs them: one slice carried through a group of stages after the other."""
