"""Language models: windows of documents, and the next token at every position."""
