"""The command line: one file per command, which parses, calls one function and prints.

May import every room; no room imports it. Start reading at `main`, then `commands`.
"""
