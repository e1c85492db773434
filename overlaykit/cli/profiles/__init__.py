"""Profiles: files `overlaykit.toml` with a table for each app, in the options of `overlaykit run`.

A plain `run` imports `files` alone. Start reading at `profile` (a file becomes apps), then `schema` (which keys there
are) and `apps` (their life).
"""
