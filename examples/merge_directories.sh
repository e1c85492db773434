#!/bin/sh
# Merge two directories: mount them copy-on-write, change the result, and see where a file comes from.
#
#     PATH="$PWD/.venv/bin:$PATH" examples/merge_directories.sh
set -eu

scratch=$(mktemp -d)
cd "$scratch"
mkdir top bottom changes work merged
trap 'overlaykit umount merged && rm -rf "$scratch"' EXIT
echo one >top/file
echo two >bottom/file
echo three >bottom/other

overlaykit mount -o lowerdir=top:bottom,upperdir=changes,workdir=work merged
cat merged/file
overlaykit explain merged /file

echo four >merged/other
cat merged/other bottom/other changes/other
