"""Other tools that can be told of runs, one file each."""
