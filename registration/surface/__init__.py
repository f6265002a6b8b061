"""Registration of touched or scanned points to a surface."""
