"""Guests: a Linux kernel under QEMU, with files of the host below an overlay of its own.

Imports the ground only. Of `run --vm`: start at `view_guest` (what the guest finds), `emulator` (QEMU and virtiofsd)
and `session` (the host's side of the command). Of the tests of other kernels (tests/kernels): at `guest` and `boot`.
Both need QEMU, virtiofsd and mkfs.ext4, and the program of native/guest_init.c.
"""
