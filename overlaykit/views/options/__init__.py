"""Mount options: what `-o` takes.

`table` says which there are and what becomes of each; start there. `quoting` splits texts, `stack` reads them.
"""

from overlaykit.views.options.stack import Stack, parse_options

__all__ = ["Stack", "parse_options"]
