"""Guests: a Linux kernel under QEMU, with the host's files below an overlay of its own.

Imports the ground only. Start reading at `guest` (what a guest finds) and `boot` (its run). The tests of other kernels
use it (tests/kernels); it needs QEMU, virtiofsd and mkfs.ext4, and the program of native/guest_init.c.
"""
