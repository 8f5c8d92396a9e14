"""Holds the documents of `cognate export` to the tools of their formats.

Usage: export.py COGNATE [SPDX], from the repository's root; needs model-signing (checked with 1.1.1, and
pyopenssl, which it imports), in-toto-attestation (0.9.3), cyclonedx-python-lib with its JSON validation (11.12),
spdx-python-model (0.0.6) and, for the shapes, pyshacl (0.40). SPDX is a folder with `spdx-context.jsonld` and
`spdx-model.ttl` of SPDX 3.0.1 (`3.0.1/rdf` on the branch gh-pages of github.com/spdx/spdx-spec); without it the
shapes are not checked, which is said.

- The subjects of the in-toto statement are the files, in the order and with the SHA-256, that the OpenSSF
  model-signing tool finds; also with files that it ignores, and in folders of other makers.
- The statement is one by the protobuf of in-toto-attestation, its descriptors valid.
- The bill of materials is valid by cyclonedx-python-lib (strict), and the library reads it.
- The SPDX document is read by the bindings made from the SHACL model, and conforms to its shapes by pyshacl.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.v1 import resource_descriptor_pb2, statement_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from model_signing import hashing
from spdx_python_model.bindings import v3_0_1

cognate = os.path.abspath(sys.argv[1])
spdx_folder = pathlib.Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else None
configs = pathlib.Path("merge-configs").resolve()


def export(folder, form, *more):
    run = subprocess.run(
        [cognate, "export", str(folder), "--format", form, "--quiet", *more],
        check=True, capture_output=True, text=True,
    )
    return run.stdout


def check_in_toto(folder):
    text = export(folder, "in-toto")
    document = json.loads(text)
    manifest = hashing.hash(folder)
    signed = [(item.identifier, item.digest.digest_hex) for item in manifest.resource_descriptors()]
    stated = [(subject["name"], subject["digest"]["sha256"]) for subject in document["subject"]]
    assert stated == signed, (stated, signed)
    message = json_format.Parse(text, statement_pb2.Statement())
    Statement.copy_from_pb(message).validate()
    definition = document["predicate"].get("buildDefinition", {})
    for dependency in definition.get("resolvedDependencies", []):
        message = json_format.ParseDict(dependency, resource_descriptor_pb2.ResourceDescriptor())
        ResourceDescriptor.copy_from_pb(message).validate()
    return len(stated)


def check_cyclonedx(folder, *more):
    text = export(folder, "cyclonedx", *more)
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert error is None, error
    bom = Bom.from_json(json.loads(text))
    bom.validate()
    return len(bom.metadata.component.components)


def check_spdx(folder, *more):
    text = export(folder, "spdx", *more)
    objects = v3_0_1.SHACLObjectSet()
    v3_0_1.JSONLDDeserializer().deserialize_data(json.loads(text), objects)
    packages = list(objects.foreach_type(v3_0_1.ai_AIPackage))
    assert len(packages) == 1, packages
    assert not objects.link(), "references to elements that are not there"
    # What the profile of AI asks of its packages besides the class itself.
    package = packages[0]
    for key in ["releaseTime", "suppliedBy", "software_downloadLocation", "software_packageVersion",
                "software_primaryPurpose"]:
        assert getattr(package, key), key
    if spdx_folder is None:
        print("SPDX: shapes not checked, no folder with the model given")
        return
    import pyshacl
    import rdflib

    document = json.loads(text)
    context = json.loads((spdx_folder / "spdx-context.jsonld").read_text())
    document["@context"] = context["@context"]
    graph = rdflib.Graph().parse(data=json.dumps(document), format="json-ld")
    shapes = rdflib.Graph().parse(spdx_folder / "spdx-model.ttl")
    conforms, _, report = pyshacl.validate(graph, shacl_graph=shapes, ont_graph=shapes)
    assert conforms, report
    # The shapes refuse what is wrong, so that conforming says something.
    related = next(node for node in document["@graph"] if node["type"] == "Relationship")
    del related["from"]
    graph = rdflib.Graph().parse(data=json.dumps(document), format="json-ld")
    assert not pyshacl.validate(graph, shacl_graph=shapes, ont_graph=shapes)[0]


with tempfile.TemporaryDirectory() as work:
    work = pathlib.Path(work)
    out = work / "out"
    recipe = (configs / "quickstart.yml").read_text()
    (work / "recipe.yml").write_text(recipe.replace("models/", f"{configs}/models/"))
    subprocess.run([cognate, "merge", str(work / "recipe.yml"), "-o", str(out), "--quiet", "--shard-size", "500kB"],
                   check=True, stdout=subprocess.DEVNULL)
    # Names whose order by bytes is not that of their parts, and what version control keeps.
    for name in ["1_Pooling/config.json", "1_Pooling-old", "a.b", "a/b", ".hidden", ".git/HEAD", ".gitattributes",
                 ".github/x.yml", "sub/.gitignore"]:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(name)
    more = ["--supplier", "Somebody", "--created", "2026-01-31T12:00:00Z"]
    for folder in [out, *sorted((configs / "models").iterdir())]:
        files = check_in_toto(folder)
        assert check_cyclonedx(folder) == files
        check_cyclonedx(folder, *more)
        check_spdx(folder)
        check_spdx(folder, *more)
        print(f"{folder.name}: {files} files agree, all documents valid")
