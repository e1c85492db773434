"""The systems under comparison: each shows layers as one tree.

Start reading at `system` (the interface), then `mounting` (mounted systems) and `directory` (a plain copy); `known`
lists the built-in ones, `custom` parses those of the command line.
"""

from overlaykit.bench.systems.system import Layers, Show, System, Tree

__all__ = ["Layers", "Show", "System", "Tree"]
