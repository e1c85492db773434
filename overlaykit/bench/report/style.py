"""The style sheet of the page, light and dark; `canvas.Drawing.inline` uses its variables."""

from __future__ import annotations

from typing import Final

CSS: Final = """\
:root {
  color-scheme: light dark;
  --ink: #1f2329; --faint: #646c77; --grid: #d9dee4; --paper: #ffffff; --panel: #f6f8fa; --ours: #2f7de1;
  --good: #d3f2dc; --fair: #fdf1cf; --poor: #fbdcc8; --bad: #f7c5c5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e8ed; --faint: #97a1ad; --grid: #333a44; --paper: #14181d; --panel: #1b2027; --ours: #6aa8f5;
    --good: #173f27; --fair: #41380f; --poor: #4d2f17; --bad: #532023;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 76rem; color: var(--ink); background: var(--paper);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
}
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; margin: 3rem 0 .6rem; padding-top: 1rem; border-top: 1px solid var(--grid); }
h3 { font-size: 1rem; margin: 2rem 0 .1rem; }
p { max-width: 46rem; margin: .4rem 0; }
.lede, .about, figcaption { color: var(--faint); }
nav { margin: 1rem 0 0; } nav a { margin-right: 1.2rem; }
a { color: var(--ours); text-decoration: none; } a:hover { text-decoration: underline; }
code { font: .875em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 1rem 0; }
dt { color: var(--faint); } dd { margin: 0; }
.facts { background: var(--panel); border: 1px solid var(--grid); border-radius: 8px; padding: 1rem 1.2rem; }
.wide { overflow-x: auto; margin: 1rem 0; border: 1px solid var(--grid); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .6rem; text-align: right; vertical-align: top; white-space: nowrap; }
th:first-child { text-align: left; white-space: normal; min-width: 15rem; }
thead th { background: var(--panel); vertical-align: bottom; font-weight: 600; }
tbody tr { border-top: 1px solid var(--grid); }
tbody th { font-weight: 600; }
small { display: block; color: var(--faint); font-size: .78rem; font-weight: 400; }
.ours { color: var(--ours); }
.none { color: var(--faint); }
.good { background: var(--good); } .fair { background: var(--fair); }
.poor { background: var(--poor); } .bad { background: var(--bad); }
.key span { padding: .05rem .5rem; border-radius: 4px; margin-right: .35rem; white-space: nowrap; }
figure { margin: .4rem 0 1.6rem; overflow-x: auto; }
figure svg { width: 100%; min-width: 40rem; height: auto; }
figcaption { font-size: .875rem; margin-bottom: .4rem; }
.legend td, .legend th { text-align: left; white-space: normal; }
.legend th:first-child { min-width: 0; }
@media print { body { max-width: none; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""
