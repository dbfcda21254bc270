"""The store: what lies on disk, without torch.

artifacts     folders of finished stages, which appear whole; atomic files, locks, hashes
runs          the one reader and writer of a runs folder's records: cells, metrics, journals, sweeps, events
shards, rows  large arrays that are written in parts, by several processes or interrupted ones
provenance    code, versions and machine, for manifests
"""
