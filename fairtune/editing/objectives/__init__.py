"""What an edit is to do to the head that reads the attribute, one file each."""
