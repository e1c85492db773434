"""The merge of layers into one tree, and the POSIX operations on it, on plain directories.

May import: `overlaykit._native` and the standard library. It does not depend on FUSE, trio, processes or the command
line. Start reading at `filesystem`.
"""
