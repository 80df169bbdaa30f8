"""Publishing: a finished run becomes a model repository, and a repository a router folder again."""
