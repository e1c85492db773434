"""The merge: what a path means, given a stack of layers. The heart of overlaykit.

May import: `overlaykit._native` and the standard library; it knows nothing of FUSE, trio, processes
or the command line. Start reading at `filesystem`, whose operations are told in the terms of the rest.
"""
