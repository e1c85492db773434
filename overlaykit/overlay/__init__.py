"""The merge: what a path means, given a stack of layers. The heart of overlaykit.

May import: `_native`, `beneath`, `lean`, `privilege`, `rmtree` and the standard library; it knows nothing of FUSE,
trio, processes or the command line. Start reading at `filesystem`, whose parts offer the operations.

Concurrency: nothing here takes a lock. One thread makes all calls, one after another, and each call
leaves the tree consistent. Only two kinds of calls may run in another thread, while that one goes on:

- `Copy.transfer` (`copyup`). It uses the copy's own descriptors and what never changes of the
  layers. `CopyUp.begin`, `Copy.finish` and `Copy.close` are calls of the one thread. Names may come
  and go between them: `finish` puts the copy under the names that the file has at that time, and
  drops it if the file has an upper already. Requires: one copy at a time of one file is transferred.
- fsync(2) and fdatasync(2) of a descriptor inside `Files.syncing`, which keeps it open.

`Filesystem.between_operations` closes descriptors of directories and of idle files; they open again
when they are used. So a descriptor from `LayerDir.fd` or `OpenFile.fd` is valid until then, and no
call may be on the stack; what the two kinds above use is not among those descriptors.
"""
