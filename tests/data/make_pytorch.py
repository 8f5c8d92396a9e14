"""Writes tests/data/pytorch: the same tensors by torch.save and by safetensors, and files that are refused.

Needs torch and safetensors. Run in the root of the repository: python tests/data/make_pytorch.py
"""

import collections
import io
import json
import pathlib
import zipfile

import torch
from safetensors.torch import save_file

OUT = pathlib.Path("tests/data/pytorch")


def tiny_llama():
    """A model of two layers, whose head is tied by sharing a storage."""
    torch.manual_seed(1)
    embedding = torch.randn(16, 8).to(torch.bfloat16)
    tensors = {"lm_head.weight": embedding, "model.embed_tokens.weight": embedding}
    for layer in range(2):
        name = f"model.layers.{layer}"
        tensors[f"{name}.input_layernorm.weight"] = torch.randn(8)
        tensors[f"{name}.mlp.up_proj.weight"] = torch.randn(12, 8).to(torch.float16)
    tensors["model.norm.weight"] = torch.randn(8)
    return tensors


def every_kind():
    """Every dtype and every way to be a plain range of a storage."""
    base = torch.arange(24, dtype=torch.float32) / 7
    tensors = collections.OrderedDict()
    for dtype in ["float32", "float16", "bfloat16", "float64", "int8", "uint8", "int16", "int32",
                  "int64", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"]:
        tensors[dtype] = torch.arange(6).to(torch.float32).reshape(2, 3).to(getattr(torch, dtype))
    tensors["bool"] = torch.tensor([True, False, True])
    tensors["view"] = base[5:17].reshape(3, 4)
    tensors["tied"] = tensors["view"]
    tensors["overlapping"] = base[6:8]
    tensors["parameter"] = torch.nn.Parameter(torch.ones(3))
    tensors["scalar"] = torch.tensor(3.5)
    tensors["empty"] = torch.empty(0, 3)
    tensors["one_column"] = base[:4].reshape(4, 1)
    tensors["row_of_transposed"] = base[:4].reshape(4, 1).t()
    return tensors


def rewritten(bytes_, change):
    """The same archive with entries changed by `change(name, data) -> (data, method)`."""
    old, out = zipfile.ZipFile(io.BytesIO(bytes_)), io.BytesIO()
    with zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data, method = change(name, old.read(name))
            new.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return out.getvalue()


def saved(value, **more):
    out = io.BytesIO()
    torch.save(value, out, **more)
    return out.getvalue()


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    model = tiny_llama()
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "num_hidden_layers": 2, "torch_dtype": "bfloat16",
    }
    (OUT / "config.json").write_text(json.dumps(config) + "\n")
    torch.save(model, OUT / "pytorch_model.bin")
    save_file({name: tensor.clone() for name, tensor in model.items()}, OUT / "model.safetensors")

    weight_map = {}
    for i, part in enumerate([list(model)[:3], list(model)[3:]]):
        file = f"pytorch_model-{i + 1:05}-of-00002.bin"
        torch.save({name: model[name] for name in part}, OUT / file)
        weight_map |= {name: file for name in part}
    (OUT / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}, indent=1) + "\n")

    kinds = every_kind()
    for protocol in (2, 4):
        (OUT / f"kinds_{protocol}.bin").write_bytes(saved(kinds, pickle_protocol=protocol))
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in kinds.items()}, OUT / "kinds.safetensors")
    module = torch.nn.BatchNorm1d(3)
    (OUT / "module.bin").write_bytes(saved(module.state_dict()))
    save_file(module.state_dict(), OUT / "module.safetensors")

    one = {"x": torch.arange(64.0)}
    good = saved(one)
    refused = {
        "legacy": saved(one, _use_new_zipfile_serialization=False),
        "transposed": saved({"x": torch.arange(6.0).reshape(2, 3).t()}),
        "compressed": rewritten(good, lambda name, data: (data, zipfile.ZIP_DEFLATED)),
        "big_endian": rewritten(good, lambda name, data: (b"big" if name.endswith("byteorder") else data, zipfile.ZIP_STORED)),
        "short_storage": rewritten(good, lambda name, data: (data[:-4] if "/data/" in name else data, zipfile.ZIP_STORED)),
        "whole_module": saved(module),
        "checkpoint": saved({"model": one, "step": 3}),
        "not_torch": rewritten(good, lambda name, data: (data, zipfile.ZIP_STORED)).replace(b"data.pkl", b"data.txt"),
        "sparse": saved({"x": torch.eye(2).to_sparse()}),
        "truncated": good[:-40],
    }
    for name, data in refused.items():
        (OUT / f"refused_{name}.bin").write_bytes(data)


main()
