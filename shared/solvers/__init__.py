"""Solvers: rules for going from one noise level to the next. One idea a file; all share `solvers.linear`."""
