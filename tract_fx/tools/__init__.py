"""What the command line offers beside the library: models by name, images from folders, the demo, the doctor."""
