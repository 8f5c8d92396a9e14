"""Reads a Hub cache that cognate made with huggingface_hub's own functions.

Usage: hub_cache.py CACHE REPO COMMIT FILE...

CACHE is the folder with `models--ORG--NAME` in it. Every FILE must be found at the revision `main`
and at COMMIT, hold what the cache's own scan says, and the scan must have no complaint.
Checked with huggingface_hub 2.4.0.
"""

import hashlib
import os
import sys

from huggingface_hub import scan_cache_dir, snapshot_download, try_to_load_from_cache

cache, repo, commit, *files = sys.argv[1:]

info = scan_cache_dir(cache)
assert not info.warnings, info.warnings
(found,) = [entry for entry in info.repos if entry.repo_id == repo]
(revision,) = found.revisions
assert revision.commit_hash == commit, revision.commit_hash
assert revision.refs == {"main"}, revision.refs
names = {os.path.relpath(file.file_path, revision.snapshot_path) for file in revision.files}
assert names == set(files), names ^ set(files)
for name in files:
    at_main = try_to_load_from_cache(repo, name, cache_dir=cache)
    at_commit = try_to_load_from_cache(repo, name, cache_dir=cache, revision=commit)
    assert isinstance(at_main, str) and at_main == at_commit, (name, at_main, at_commit)
    if name.endswith(".safetensors"):
        digest = hashlib.sha256(open(at_main, "rb").read()).hexdigest()
        assert os.path.basename(os.path.realpath(at_main)) == digest, name
folder = snapshot_download(repo, cache_dir=cache, local_files_only=True)
assert folder == str(revision.snapshot_path), folder
print(f"{len(names)} files of {repo} found, {info.size_on_disk} bytes, no warnings")
