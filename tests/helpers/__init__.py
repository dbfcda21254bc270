"""What the tests share: small models, stores, sweeps and reports in the real formats, processes that act together."""
