"""The entries of the table, a file for each subject. Every module here is imported by `test_posix`."""
