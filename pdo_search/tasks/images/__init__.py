"""Image classification: pictures from files and arrays, augmentation, and the task over them."""
