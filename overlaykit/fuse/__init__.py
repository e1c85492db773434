"""The mount: the FUSE requests, answered by `overlaykit.overlay`, and the daemon process around them.

May import: `overlaykit.overlay`, `overlaykit._native` and the modules of that floor; never `namespace` or `layers`;
and `overlaykit.changes` in a child that compares.
Start reading at `operations` (the requests), then `daemon` (the parent's side) and `daemon_process`, and at `server`,
which forks daemons.

Requests about directories that lie in one lower alone, about names of merged directories that one lower has or none,
and about names that programs have made in the upper, reach no Python: native/plane.c answers them while this thread
waits (`plane`). Its nodes cross to `overlay` before a request that names them does. A file goes back once it is copied
up, if no other request is under way, which may rely on its node. A small one that is opened for writing does not cross:
it is copied up while the plane has its node (`Plane.answer_after_change`).

Concurrency rules. One thread runs trio, with one task per request. `overlay` is synchronous and takes no lock.

1. Between two awaits a task has the nodes, the open files and the layers to itself.
2. A request awaits if it copies a file up (`Copying`), in FSYNC and FSYNCDIR, and in a GETATTR that tells the kernel
   how an open file has grown in a live lower: that file is not changed meanwhile. Others are answered during the wait,
   once it takes longer than a millisecond (`Poller.in_thread`). The copy of a small file holds the others up if the
   one before took no longer than twice that; else only its sync is left to a thread.
3. A thread changes no node, and uses descriptors that nothing else closes: a copy its own two, FSYNC one that
   `Files.syncing` pins, FSYNCDIR one that it opens.
4. `between_operations` runs after each request, also while others wait. It may close every cached descriptor, of a
   directory or an open file, that is not pinned. A request that continues asks for descriptors again.
5. One task copies a file up. Requests that change the same file wait for it, then check again whether to copy it.
   Requests that read it do not wait.
6. The names of a file may change while it is copied: by unlink, by a rename over it, by a rename of a directory above
   it. `Copy.finish` renames the copy to a name that the file has at that time.
7. After an await a request relies on the nodeids that it was given, as the kernel holds these inodes. It looks names up
   again.
8. A copy that fails leaves the file in its lower. The next request that waits for it copies it again.
9. At most `Shares.copies` copies hold descriptors. Others wait before they open any.
10. `Filesystem.close` runs after the last request.

tests/fuse/test_concurrency.py tries to break each rule; the tests carry its number.
"""
