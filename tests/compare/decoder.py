"""Holds the decoder against transformers: likelihoods and speed over the same items, on the same cores.

    decoder.py items MODEL HELDOUT.json KIND ITEMS.json   items from held-out documents (cut at 200 tokens)
    decoder.py random VOCABULARY COUNT LENGTH ITEMS.json  items of random tokens
    decoder.py shape 1b|70b [LAYERS] FOLDER               a checkpoint of that shape: random weights (1b), or
                                                          a sparse file of zeros (70b)
    decoder.py compare MODEL ITEMS.json PROGRAM [MIB]     scores both ways; PROGRAM is the built benches/decoder.rs
    decoder.py score ITEMS.json MODEL PROGRAM [MIB]       our scores alone: perplexity, seconds, peak memory

Needs torch, transformers and tokenizers (2.15, 5.23).
"""

import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import time

# A script beside this one is called tokenizers.py, too.
sys.path.pop(0)

THREADS = os.cpu_count()
BATCH = 16


def items(model, heldout, kind, out):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
    begin = tokenizer.token_to_id("<s>")
    documents = json.load(open(heldout))[kind]
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in documents]
    json.dump([([begin] + own)[:200] for own in ids], open(out, "w"))


def random_items(vocabulary, count, length, out):
    import random

    random.seed(1)
    json.dump([[random.randrange(3, int(vocabulary)) for _ in range(int(length))] for _ in range(int(count))],
              open(out, "w"))


SHAPES = {
    "1b": dict(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
               num_key_value_heads=4, vocab_size=32000),
    "70b": dict(hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
                num_key_value_heads=8, vocab_size=128256),
}


def shape(which, *rest):
    config = dict(SHAPES[which])
    *layers, folder = rest
    if layers:
        config["num_hidden_layers"] = int(layers[0])
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = dict(config, architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu",
                   max_position_embeddings=8192, rms_norm_eps=1e-5, rope_theta=500000.0,
                   tie_word_embeddings=False, torch_dtype="bfloat16")
    (folder / "config.json").write_text(json.dumps(written))
    if which == "1b":
        import torch
        import transformers

        torch.manual_seed(0)
        config = transformers.AutoConfig.from_pretrained(folder)
        transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
        return
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    tensors = {"model.embed_tokens.weight": [config["vocab_size"], hidden],
               "lm_head.weight": [config["vocab_size"], hidden], "model.norm.weight": [hidden]}
    for layer in range(config["num_hidden_layers"]):
        for name, own in {"self_attn.q_proj": [hidden, hidden], "self_attn.k_proj": [keys, hidden],
                          "self_attn.v_proj": [keys, hidden], "self_attn.o_proj": [hidden, hidden],
                          "mlp.gate_proj": [inner, hidden], "mlp.up_proj": [inner, hidden],
                          "mlp.down_proj": [hidden, inner], "input_layernorm": [hidden],
                          "post_attention_layernorm": [hidden]}.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = own
    header, end = {}, 0
    for name, own in tensors.items():
        header[name] = dict(dtype="BF16", shape=own, data_offsets=[end, end + 2 * math.prod(own)])
        end += 2 * math.prod(own)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def ours(model, path, program, memory):
    command = [program, model, path] + ([memory, str(THREADS)] if memory else [])
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def theirs(model, path):
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    lists = json.load(open(path))
    begin = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    order = sorted(range(len(lists)), key=lambda i: -len(lists[i]))
    sums = [0.0] * len(lists)
    loaded = time.perf_counter()
    with torch.no_grad():
        for first in range(0, len(order), BATCH):
            batch = order[first:first + BATCH]
            longest = max(len(lists[i]) for i in batch)
            ids = torch.zeros(len(batch), longest, dtype=torch.long)
            mask = torch.zeros(len(batch), longest, dtype=torch.long)
            for row, i in enumerate(batch):
                ids[row, :len(lists[i])] = torch.tensor(lists[i])
                mask[row, :len(lists[i])] = 1
            nats = model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
            for row, i in enumerate(batch):
                targets = torch.tensor(lists[i][1:])
                sums[i] = nats[row, :len(targets)].gather(1, targets[:, None]).double().sum().item()
    end = time.perf_counter()
    return dict(seconds=end - loaded, loading=loaded - begin, log_likelihoods=sums)


def score(path, model, program, memory=None):
    result = ours(model, path, program, memory)
    result["perplexity"] = math.exp(-sum(result.pop("log_likelihoods")) / result["tokens"])
    print(json.dumps(result))


def compare(model, path, program, memory=None):
    a, b = ours(model, path, program, memory), theirs(model, path)
    pairs = list(zip(a["log_likelihoods"], b["log_likelihoods"]))
    print(f"load {os.getloadavg()[0]:.1f} on {THREADS} cores")
    print(f"ours   {a['seconds']:.2f} s with reading the weights, {a['tokens'] / a['seconds']:.0f} tokens/s, "
          f"{a['peak_mib']} MiB at most")
    print(f"theirs {b['seconds']:.2f} s and {b['loading']:.2f} s of reading the weights, "
          f"{a['tokens'] / b['seconds']:.0f} tokens/s")
    print(f"speed  {b['seconds'] / a['seconds']:.2f} times theirs without, "
          f"{(b['seconds'] + b['loading']) / a['seconds']:.2f} with their reading")
    print(f"a text's log-likelihood differs by at most {max(abs(x - y) for x, y in pairs):.2e}")


if __name__ == "__main__":
    {"items": items, "random": random_items, "shape": shape, "compare": compare, "score": score}[sys.argv[1]](
        *sys.argv[2:])
