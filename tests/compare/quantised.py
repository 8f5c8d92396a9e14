#!/usr/bin/env python3
"""Writes tests/data/quantised: tiny quantised checkpoints, and what their authors' code makes of them.

    python3 -m venv venv
    venv/bin/pip install transformers==5.23.0 torch==2.15.0 bitsandbytes==0.50.2 compressed-tensors==0.20.0
    mkdir sources && cd sources      # their setup wants a GPU; only files of pure torch are imported
    pip download --no-deps autoawq==0.2.9 auto-gptq==0.7.1 gptqmodel==7.7.0
    tar xzf autoawq-*.tar.gz; tar xzf gptqmodel-*.tar.gz; unzip -d auto_gptq auto_gptq-*.whl; cd ..
    venv/bin/python tests/compare/quantised.py sources

Each case is a folder: config.json and model.safetensors as a checkpoint has them, and
expected.safetensors with the float weights. Who packed and who unpacked them:

    fp8_*         torch casts; transformers' finegrained_fp8 (Fp8Dequantize, or _dequantize_fp8_weight where the
                  blocks do not divide the weight)
    ct_*          compressed_tensors.quantization.lifecycle.forward quantize and dequantize
    bnb_*         bitsandbytes.functional on the CPU, quantize and dequantize, in float32
    gptq*         packed by AutoGPTQ (4 bits, v1) or GPTQModel; unpacked by GPTQModel's convert_gptq_file; for the
                  former also AutoGPTQ's forward of the identity, which must agree
    awq_*         packed and unpacked by AutoAWQ (WQLinear_GEMM.from_linear, dequantize_gemm)
    llama_gptq    a layer in GPTQ 4 bits among float tensors, for whole merges
"""
import importlib
import json
import logging
import shutil
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

OUT = Path(__file__).resolve().parents[1] / "data" / "quantised"
SOURCES = Path(sys.argv[1]).resolve()
NAME = "model.layers.0.mlp.up_proj"
torch.manual_seed(0)


def package(name, folder):
    """Makes modules of a package importable without running its __init__."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module


def write(case, quantization, tensors, expected, dtype="float32"):
    folder = OUT / case
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "torch_dtype": dtype, "num_hidden_layers": 1, **({"quantization_config": quantization} if quantization else {})}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")
    save_file({k: v.float().contiguous() for k, v in expected.items()}, folder / "expected.safetensors")


def fp8():
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize, _dequantize_fp8_weight

    def case(name, shape, grid, ending, block, kind=torch.float8_e4m3fn, scale_dtype=torch.float32):
        packed = (torch.randn(shape) * 60).to(kind)
        scale = (torch.rand(grid) * 0.01 + 0.001).to(scale_dtype)
        if grid and shape[0] % grid[0] == 0 and shape[1] % grid[1] == 0:
            expected = Fp8Dequantize(None)._dequantize_one(packed, scale, output_dtype=torch.float32)
        else:
            expected = _dequantize_fp8_weight(packed, scale.float(), block, torch.float32)
        tensors = {f"{NAME}.weight": packed, f"{NAME}.weight{ending}": scale, f"{NAME}.input_scale": torch.ones(())}
        config = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": block}
        write(name, config, tensors, {f"{NAME}.weight": expected})

    case("fp8_block", (32, 64), (2, 2), "_scale_inv", [16, 32])
    case("fp8_partial_blocks", (40, 72), (3, 3), "_scale_inv", [16, 32])
    case("fp8_power_scales", (32, 64), (2, 2), "_scale_inv", [16, 32], scale_dtype=torch.float8_e8m0fnu)
    case("fp8_tensor", (16, 48), (), "_scale", None)
    case("fp8_e5m2", (16, 48), (), "_scale_inv", None, kind=torch.float8_e5m2, scale_dtype=torch.bfloat16)
    # All 256 patterns of both types as plain numbers.
    for name, kind in {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}.items():
        packed = torch.arange(256, dtype=torch.uint8).view(kind).reshape(16, 16)
        write(f"plain_{name}", None, {"x": packed}, {"x": packed.float()})


def compressed():
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize

    for strategy, grid, more in [("tensor", (1,), {}), ("channel", (24, 1), {}), ("block", (2, 3), {"block_structure": [16, 32]})]:
        args = QuantizationArgs(num_bits=8, type="float", strategy=strategy, symmetric=True, **more)
        shape = (32, 96) if strategy == "block" else (24, 64)
        scale = (torch.rand(grid) * 0.01 + 0.001).to(torch.bfloat16)
        packed = quantize(torch.randn(shape), scale.float(), None, args, dtype=torch.float8_e4m3fn)
        expected = dequantize(packed, scale.float(), None, args, dtype=torch.float32)
        group = {"targets": ["Linear"], "weights": json.loads(args.model_dump_json()), "input_activations": None}
        config = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"group_0": group},
                  "ignore": ["lm_head"], "quantization_status": "compressed"}
        tensors = {f"{NAME}.weight": packed, f"{NAME}.weight_scale": scale}
        write(f"ct_{strategy}", config, tensors, {f"{NAME}.weight": expected})


def bnb():
    import bitsandbytes.backends.default.ops as torch_ops
    import bitsandbytes.functional as F

    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}
    for kind, nested, shape in [("nf4", False, (24, 64)), ("nf4", True, (130, 64)), ("fp4", True, (16, 64))]:
        packed, state = F.quantize_4bit(torch.randn(shape), blocksize=32 if nested else 64, compress_statistics=nested, quant_type=kind)
        tensors = {f"{NAME}.weight": packed}
        tensors |= {f"{NAME}.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
        more = {"bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": nested}
        made = F.dequantize_4bit(packed, state)
        # The same by the backend of pure torch. (With rows that are no multiple of the block, the CPU kernel of 0.50.2
        # takes other scales than those of the flat blocks that it quantised with.)
        absmax = F.dequantize_blockwise(state.absmax, state.state2) + state.offset if nested else state.absmax
        again = torch_ops._dequantize_4bit_compute(packed.reshape(-1), absmax, state.code, state.blocksize, shape, torch.float32)
        assert torch.equal(made, again), (made - again).abs().max()
        expected = {f"{NAME}.weight": made}
        write(f"bnb_{kind}{'_nested' if nested else ''}", config | more, tensors, expected)
    packed, scb, _ = F.int8_vectorwise_quant(torch.randn(24, 48).half())
    tensors = {f"{NAME}.weight": packed, f"{NAME}.SCB": scb, f"{NAME}.weight_format": torch.tensor(0, dtype=torch.uint8)}
    expected = {f"{NAME}.weight": F.int8_vectorwise_dequant(packed, scb)}
    write("bnb_int8", config | {"load_in_4bit": False, "load_in_8bit": True}, tensors, expected)


def gptq_modules():
    package("gptqmodel", SOURCES / "gptqmodel-7.7.0/gptqmodel")
    for part in ["utils", "quantization"]:
        package(f"gptqmodel.{part}", SOURCES / f"gptqmodel-7.7.0/gptqmodel/{part}")
    # These draw in what unpacking does not need.
    sys.modules["gptqmodel.utils.logger"] = types.SimpleNamespace(setup_logger=lambda: logging.getLogger("gptqmodel"))
    sys.modules["gptqmodel.utils.torch"] = types.SimpleNamespace(HAS_NPU=False)
    return importlib.import_module("gptqmodel.utils.model_dequant")


def gptq_parts(dequant, bits, size, order, shape, add):
    """Random integers, packed by GPTQModel."""
    inputs, outputs = shape
    groups = inputs // size
    group = torch.arange(inputs) // size
    if order:
        group = group[torch.randperm(inputs)]
    integers = torch.randint(0, 2**bits, (inputs, outputs), dtype=torch.int32)
    zeros = torch.randint(0, 2**bits, (groups, outputs), dtype=torch.int32)
    pack = lambda values: dequant.pack_cols(values, bits, pack_dtype=torch.int32)
    return {
        "qweight": pack(integers.t().contiguous()).t(),
        "qzeros": pack((zeros - add) & (2**bits - 1)),
        "scales": (torch.rand(groups, outputs) * 0.02 + 0.001).half(),
        "g_idx": group.to(torch.int32),
    }


def gptq():
    dequant = gptq_modules()

    def case(name, module, config, dtype="float32"):
        config = {"quant_method": "gptq", "sym": False} | config
        tensors = {f"{NAME}.{key}": value for key, value in module.items()}
        tensors[f"{NAME}.bias"] = torch.randn(module["scales"].shape[1]).half()
        path = OUT / "aside.safetensors"
        save_file({k: v.contiguous() for k, v in tensors.items()}, path)
        expected = dequant.convert_gptq_file(path, torch.float32, config, "cpu")
        path.unlink()
        write(name, config, tensors, expected, dtype)
        return expected[f"{NAME}.weight"]

    for bits, form, add in [(2, "gptq", 1), (3, "gptq", 1), (4, "gptq", 1), (4, "gptq_v2", 0), (8, "gptq_v2", 0)]:
        module = gptq_parts(dequant, bits, 32, bits == 4, (64, 32), add)
        config = {"bits": bits, "group_size": 32, "desc_act": bits == 4, "checkpoint_format": form}
        case(f"gptq{bits}_{'v2' if add == 0 else 'v1'}", module, config)
    case("gptq4_one_group", gptq_parts(dequant, 4, 64, False, (64, 32), 1), {"bits": 4, "group_size": -1})

    # The same by AutoGPTQ: its pack, and its forward of the identity.
    package("auto_gptq", SOURCES / "auto_gptq/auto_gptq")
    package("auto_gptq.nn_modules", SOURCES / "auto_gptq/auto_gptq/nn_modules")
    package("auto_gptq.nn_modules.qlinear", SOURCES / "auto_gptq/auto_gptq/nn_modules/qlinear")
    linear_type = importlib.import_module("auto_gptq.nn_modules.qlinear.qlinear_cuda").QuantLinear
    linear = torch.nn.Linear(64, 32)
    group = (torch.arange(64) // 32)[torch.randperm(64)].to(torch.int32)
    scales = torch.rand(32, 2) * 0.02 + 0.005
    zeros = torch.randint(1, 16, (32, 2)).float()
    quantised = linear_type(4, 32, 64, 32, True)
    quantised.pack(linear, scales, zeros, group)
    names = ["qweight", "qzeros", "scales", "g_idx"]
    made = case("gptq4_auto", {key: getattr(quantised, key) for key in names},
                {"bits": 4, "group_size": 32, "desc_act": True})
    quantised.bias = None
    quantised.scales = quantised.scales.float()
    forward = quantised(torch.eye(64)).t()
    assert torch.equal(forward, made), (forward - made).abs().max()
    return dequant


def awq():
    package("awq", SOURCES / "autoawq-0.2.9/awq")
    for part in ["utils", "modules", "modules.linear", "modules.triton"]:
        package(f"awq.{part}", SOURCES / f"autoawq-0.2.9/awq/{part.replace('.', '/')}")
    gemm = importlib.import_module("awq.modules.linear.gemm").WQLinear_GEMM
    unpack = importlib.import_module("awq.utils.packing_utils").dequantize_gemm
    for name, size in [("awq_groups", 32), ("awq_one_group", -1)]:
        groups = 64 // size if size > 0 else 1
        linear = torch.nn.Linear(64, 32)
        scales = torch.rand(32, groups) * 0.02 + 0.005
        zeros = torch.randint(0, 16, (32, groups)).float()
        made = gemm.from_linear(linear, 4, size if size > 0 else 64, scales=scales.t().contiguous(), zeros=zeros.t().contiguous())
        expected = unpack(made.qweight, made.qzeros, made.scales.float(), 4, made.group_size).t()
        config = {"quant_method": "awq", "bits": 4, "group_size": size, "version": "gemm", "zero_point": True}
        tensors = {f"{NAME}.{key}": getattr(made, key) for key in ["qweight", "qzeros", "scales"]}
        write(name, config, tensors, {f"{NAME}.weight": expected})


def llama(dequant):
    """A Llama of one layer whose projections are in GPTQ 4 bits."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                         num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=False)
    tensors, expected = {}, {}
    for name, value in LlamaForCausalLM(config).half().state_dict().items():
        if "_proj" not in name:
            tensors[name] = expected[name] = value
            continue
        module = gptq_parts(dequant, 4, 32, False, value.shape[::-1], 1)
        tensors |= {name.replace("weight", part): value for part, value in module.items()}
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
    write("llama_gptq", quantization, tensors, {}, "float16")
    folder = OUT / "llama_gptq"
    expected |= dequant.convert_gptq_file(folder / "model.safetensors", torch.float16, quantization, "cpu")
    save_file(expected, folder / "expected.safetensors")
    written = config.to_dict() | {"architectures": ["LlamaForCausalLM"], "dtype": "float16"}
    written["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    fp8()
    compressed()
    bnb()
    dequant = gptq()
    awq()
    llama(dequant)
    for folder in sorted(OUT.iterdir()):
        weights = {name: list(value.shape) for name, value in load_file(folder / "expected.safetensors").items()}
        print(folder.name, sum(f.stat().st_size for f in folder.iterdir()), weights if len(weights) < 4 else len(weights))
