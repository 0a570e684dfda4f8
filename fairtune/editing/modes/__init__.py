"""How an edit is searched, one file each."""
