"""Text classification: texts from rows and from WordNet, and the task over them."""
