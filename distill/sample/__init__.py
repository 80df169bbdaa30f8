"""`orderdesk`, the embedded sample domain: a small web shop, its tools and conversations."""
