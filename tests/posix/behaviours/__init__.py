"""The entries of the table, one file for each subject. `test_posix` imports all modules of this package."""
