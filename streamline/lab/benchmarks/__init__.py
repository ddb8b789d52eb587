"""Benchmarks: the paper's tables measured on the hardware at hand, beside what a user would otherwise do.

cases (what to make) x methods (how) -> measuring (in turns, resumable) -> scoring -> results (JSON) -> readme, pictures

The recipes' world provides the questions and the judge; full-size models without a GPU are modelled (modelled.py),
and on a GPU they are measured by gpu.py.
"""
