"""The benchmark behind `overlaykit bench`: what file systems and launchers cost, side by side.

`selection` decides what a run measures; `systems` are the file systems under comparison; `workloads` and `views` are
the measurements; `runner` runs them in interleaved rounds; `results` is the data; `report` shows it as a table, JSON,
plots and a page. May import `overlaykit.views` and `overlaykit.fuse`. Start reading at `workload`, then `runner`.
"""
