"""What a recipe may say of its edit, one file each."""
