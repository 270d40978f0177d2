"""Images of class folders and archives."""
