"""Mount options: what `-o` takes.

Start reading at `table`, which lists the options and their effects. `quoting` splits texts, `parser` reads them.
"""

from overlaykit.views.options.parser import ParsedOptions, parse_options

__all__ = ["ParsedOptions", "parse_options"]
