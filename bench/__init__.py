"""What file systems and isolated programs cost, side by side: the code behind `overlaykit bench`.

`systems` says what is compared, the workloads what is done to each, `race` does it in interleaved rounds, `results`
is what comes out, and the reports show it: a table, JSON, plots, a page.
"""
