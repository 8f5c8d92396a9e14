"""Checks the originals in tests/data/gguf against transformers' own reading of the GGUF files.

Needs torch, transformers, safetensors and gguf. Run in the root of the repository.
"""

import pathlib
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

DATA = pathlib.Path("tests/data/gguf")

for name in ["llama_f16", "llama_q8_0", "llama_q4_0", "qwen2", "gemma", "gemma2"]:
    expected = load_file(DATA / f"{name}.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "m.gguf").write_bytes((DATA / f"{name}.gguf").read_bytes())
        try:
            model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="m.gguf", dtype=torch.float32)
        except ValueError as error:
            print(name, "is not read by transformers:", str(error)[:100])
            continue
    found = model.state_dict()
    missing = set(expected) - set(found)
    extra = set(found) - set(expected) - {"lm_head.weight"}
    assert not missing and not extra, (missing, extra)
    largest = max((found[key].float() - expected[key].float()).abs().max().item() for key in expected)
    config = model.config
    print(name, "largest difference", largest, "head", getattr(config, "head_dim", None), "heads", config.num_attention_heads,
          config.num_key_value_heads, "rope", config.rope_parameters, "eps", config.rms_norm_eps,
          "tied", config.tie_word_embeddings, "context", config.max_position_embeddings, "vocab", config.vocab_size)
