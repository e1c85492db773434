"""What is compared on files: systems that show layers as one tree.

Start reading at `system` (what one is), then `mounting` (those that mount) and `directory` (those that do not);
`known` lists them, `custom` reads those that a user names.
"""

from overlaykit.bench.systems.system import Layers, Show, System, Tree

__all__ = ["Layers", "Show", "System", "Tree"]
