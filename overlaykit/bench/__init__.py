"""What file systems and isolated programs cost, side by side: the code behind `overlaykit bench`.

`choice` says what a run consists of, `systems` what is compared, `workloads` and `views` what is done; `race` does it
in interleaved rounds, `results` is what comes out, and `report` shows it: a table, JSON, plots, a page. May import
`overlaykit.views` and `overlaykit.fuse`, as anybody may who mounts. Start reading at `workload`, then `race`.
"""
