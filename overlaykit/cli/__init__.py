"""The command line: one file per command, which parses, calls one function and prints.

May import everything below it; nothing imports it. Start reading at `main`.
"""
