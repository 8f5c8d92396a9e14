"""Compares the Hub cache that cognate makes and reads with that of huggingface_hub itself.

Usage: hub_cache.py COGNATE, from the repository's root; needs huggingface_hub (checked with 2.4.0).

A small Hub on 127.0.0.1 serves the models of merge-configs. cognate merges two of them; then
huggingface_hub must find every file in the cache, without a warning. Then huggingface_hub fetches
the models into another cache, and cognate must make the same merge of them offline.
"""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

cognate = os.path.abspath(sys.argv[1])
models = {f"org/{path.name}": path for path in pathlib.Path("merge-configs/models").resolve().iterdir()}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def blob_id(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def described(path):
    data = path.read_bytes()
    entry = {"rfilename": path.name, "size": len(data), "blobId": blob_id(data)}
    if path.name.endswith(".safetensors"):
        digest = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
    return entry


class Hub(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def send(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        self.serve(self.path.split("?")[0])

    do_HEAD = do_GET

    def serve(self, path):
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            folder = models["/".join(parts[2:4])]
            files = [described(file) for file in sorted(folder.iterdir())]
            if len(parts) > 4 and parts[4] == "tree":
                tree = []
                for file in files:
                    entry = {"type": "file", "path": file["rfilename"], "size": file["size"], "oid": file["blobId"]}
                    if "lfs" in file:
                        entry["lfs"] = {"oid": file["lfs"]["sha256"], "size": file["size"], "pointerSize": 134}
                    tree.append(entry)
                body = tree
            else:
                body = {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": files}
            return self.send(200, {"Content-Type": "application/json"}, json.dumps(body).encode())
        if "/".join(parts[:2]) not in models:
            return self.send(404, {})
        file = models["/".join(parts[:2])] / parts[4]
        data, entry = file.read_bytes(), described(file)
        tag = entry["lfs"]["sha256"] if "lfs" in entry else entry["blobId"]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"'}
        if "lfs" in entry:
            headers |= {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(data))}
        asked = self.headers.get("Range")
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            end = min(int(last) + 1, len(data)) if last else len(data)
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
            return self.send(206, headers, data[int(first) : end])
        self.send(200, headers, data)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
endpoint = f"http://127.0.0.1:{server.server_address[1]}"
work = pathlib.Path(tempfile.mkdtemp())
os.environ.update(HF_ENDPOINT=endpoint, HF_HOME=str(work / "python"), HF_HUB_DISABLE_XET="1")

from huggingface_hub import scan_cache_dir, snapshot_download, try_to_load_from_cache  # noqa: E402

(work / "recipe.yml").write_text(
    "merge_method: linear\nmodels:\n"
    "  - {model: org/ft-code, parameters: {weight: 0.5}}\n"
    "  - {model: org/ft-math, parameters: {weight: 0.5}}\n"
)


def merge(home, out, **environment):
    environment = os.environ | {"HF_HOME": str(work / home)} | environment
    arguments = [cognate, "merge", "recipe.yml", "-o", out, "--quiet"]
    subprocess.run(arguments, cwd=work, env=environment, check=True, stdout=subprocess.DEVNULL)
    return {path.name: path.read_bytes() for path in (work / out).iterdir()}


ours = merge("cognate", "out-1")
cache = work / "cognate" / "hub"
info = scan_cache_dir(cache)
assert not info.warnings, info.warnings
assert {repo.repo_id for repo in info.repos} == {"org/ft-code", "org/ft-math"}, info.repos
for repo in info.repos:
    (revision,) = repo.revisions
    assert (revision.commit_hash, revision.refs) == (COMMIT, {"main"}), revision
    expected = {path.name for path in models[repo.repo_id].iterdir()}
    assert {file.file_name for file in revision.files} == expected, revision.files
    for name in expected:
        at_main = try_to_load_from_cache(repo.repo_id, name, cache_dir=cache)
        at_commit = try_to_load_from_cache(repo.repo_id, name, cache_dir=cache, revision=COMMIT)
        assert isinstance(at_main, str) and at_main == at_commit, (name, at_main, at_commit)
        assert pathlib.Path(at_main).read_bytes() == (models[repo.repo_id] / name).read_bytes()
    folder = snapshot_download(repo.repo_id, cache_dir=cache, local_files_only=True)
    assert folder == str(revision.snapshot_path), folder
print(f"huggingface_hub finds {sum(repo.nb_files for repo in info.repos)} files of cognate's cache")

for model in ["org/ft-code", "org/ft-math"]:
    snapshot_download(model)
links = [
    sorted((str(path.relative_to(work / home)), os.readlink(path)) for path in (work / home).rglob("snapshots/*/*"))
    for home in ("cognate", "python")
]
assert links[0] == links[1], links
assert merge("python", "out-2", HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:1") == ours
print("cognate makes the same merge offline of huggingface_hub's cache; all links are the same")
