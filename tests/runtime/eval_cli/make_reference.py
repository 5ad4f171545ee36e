#!/usr/bin/env python3
"""Makes reference.json: what a plain PyTorch implementation of DeepSeek-V3 says of text.txt with r1-nano's FP8 weights.

    make_reference.py R1 GOLDEN_MODELS      R1: the program r1, for the ids; GOLDEN_MODELS: tests/golden/models, unpacked

All in float64, straight from the checkpoint and the papers (arXiv 2412.19437; YaRN: 2309.00071), without any code of
r1rt. Before it says anything, it must reproduce the logits of the golden checkpoint deepseek-v3-fp8. Needs python3-torch
(Debian 12).
"""
import json
import math
import pathlib
import subprocess
import sys

import torch

HERE = pathlib.Path(__file__).resolve().parent
NANO = HERE.parents[2] / "examples/r1-nano"
CONTEXT = 256


def read_safetensors(path):
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    for name, info in json.loads(data[8 : 8 + n]).items():
        if name == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        raw = torch.frombuffer(bytearray(data[8 + n + begin : 8 + n + end]), dtype=torch.uint8)
        yield name, info["dtype"], info["shape"], raw


def e4m3_values():
    values = []
    for code in range(256):
        sign, exponent, mantissa = -1.0 if code >> 7 else 1.0, code >> 3 & 15, code & 7
        if code & 127 == 127:
            values.append(math.nan)
        elif exponent == 0:
            values.append(sign * mantissa * 2.0**-9)
        else:
            values.append(sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    return torch.tensor(values, dtype=torch.float64)


def read_weights(folder):
    table, raw = e4m3_values(), {}
    for path in sorted(folder.glob("model*.safetensors")):
        for name, dtype, shape, data in read_safetensors(path):
            if dtype == "F8_E4M3":
                raw[name] = table[data.long()].reshape(shape)
            elif dtype == "BF16":
                raw[name] = data.view(torch.bfloat16).double().reshape(shape)
            elif dtype == "F32":
                raw[name] = data.view(torch.float32).double().reshape(shape)
            else:
                sys.exit(f"{path}: {name}: {dtype}")
    weights = {}
    for name, w in raw.items():
        if name.endswith("_scale_inv"):
            continue
        scale = raw.get(name + "_scale_inv")
        if scale is not None:
            blocks = scale.repeat_interleave(128, 0)[: w.shape[0]].repeat_interleave(128, 1)[:, : w.shape[1]]
            w = w * blocks
        weights[name] = w
    return weights


class DeepseekV3:
    def __init__(self, folder):
        self.c = json.loads((folder / "config.json").read_text())
        self.w = read_weights(folder)
        c, yarn = self.c, self.c["rope_scaling"]
        d, theta, original = c["qk_rope_head_dim"], c["rope_theta"], yarn["original_max_position_embeddings"]

        def pair_of(rotations):
            return d * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

        low = max(math.floor(pair_of(yarn["beta_fast"])), 0)
        high = min(math.ceil(pair_of(yarn["beta_slow"])), d - 1)
        i = torch.arange(d // 2, dtype=torch.float64)
        frequency = theta ** (-2 * i / d)
        ramp = ((i - low) / max(high - low, 0.001)).clamp(0, 1)
        self.frequency = frequency / yarn["factor"] * ramp + frequency * (1 - ramp)
        magnitude = 0.1 * yarn["mscale_all_dim"] * math.log(yarn["factor"]) + 1
        self.scale = magnitude**2 / math.sqrt(c["qk_nope_head_dim"] + d)

    def norm(self, x, name):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.c["rms_norm_eps"]) * self.w[name]

    def rotate(self, x):  # [T, heads, d], pairs (2i, 2i + 1)
        angle = torch.arange(x.shape[0], dtype=torch.float64)[:, None, None] * self.frequency
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = torch.stack([even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], -1)
        return turned.flatten(-2)

    def attention(self, x, p):
        c, w = self.c, self.w
        heads, nope, rope, dv = (c[k] for k in ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
        t = x.shape[0]
        q = self.norm(x @ w[p + "q_a_proj.weight"].T, p + "q_a_layernorm.weight") @ w[p + "q_b_proj.weight"].T
        q = q.reshape(t, heads, nope + rope)
        kv = x @ w[p + "kv_a_proj_with_mqa.weight"].T
        latent, k_rope = kv[:, : c["kv_lora_rank"]], kv[:, c["kv_lora_rank"] :]
        kv = self.norm(latent, p + "kv_a_layernorm.weight") @ w[p + "kv_b_proj.weight"].T
        kv = kv.reshape(t, heads, nope + dv)
        q = torch.cat([q[..., :nope], self.rotate(q[..., nope:])], -1)
        k = torch.cat([kv[..., :nope], self.rotate(k_rope[:, None]).expand(t, heads, rope)], -1)
        scores = torch.einsum("qhd,khd->hqk", q, k) * self.scale
        scores = scores.masked_fill(torch.ones(t, t).triu(1).bool(), -math.inf)
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1), kv[..., nope:]).reshape(t, -1) @ w[p + "o_proj.weight"].T

    def mlp(self, x, p):
        gate, up = x @ self.w[p + "gate_proj.weight"].T, x @ self.w[p + "up_proj.weight"].T
        return (gate * torch.sigmoid(gate) * up) @ self.w[p + "down_proj.weight"].T

    def moe(self, x, p):
        c = self.c
        affinity = torch.sigmoid(x @ self.w[p + "gate.weight"].T)
        choice = affinity + self.w[p + "gate.e_score_correction_bias"]
        groups = choice.reshape(len(x), c["n_group"], -1)
        best_groups = groups.topk(2, -1).values.sum(-1).topk(c["topk_group"], -1).indices
        allowed = torch.zeros(groups.shape[:2], dtype=torch.bool).scatter(1, best_groups, True)
        choice = groups.masked_fill(~allowed[..., None], -math.inf).flatten(1)
        experts = choice.topk(c["num_experts_per_tok"], -1).indices
        weight = affinity.gather(1, experts)
        weight = weight / weight.sum(-1, keepdim=True) * c["routed_scaling_factor"]
        y = self.mlp(x, p + "shared_experts.")
        for e in range(c["n_routed_experts"]):
            token, place = (experts == e).nonzero(as_tuple=True)
            if len(token):
                y[token] += weight[token, place, None] * self.mlp(x[token], f"{p}experts.{e}.")
        return y

    def logits(self, ids):
        x = self.w["model.embed_tokens.weight"][torch.tensor(ids)]
        for layer in range(self.c["num_hidden_layers"]):
            p = f"model.layers.{layer}."
            x = x + self.attention(self.norm(x, p + "input_layernorm.weight"), p + "self_attn.")
            h = self.norm(x, p + "post_attention_layernorm.weight")
            x = x + (self.mlp if layer < self.c["first_k_dense_replace"] else self.moe)(h, p + "mlp.")
        return self.norm(x, "model.norm.weight") @ self.w["lm_head.weight"].T


def check_against_golden(folder):
    golden = {}
    for name, dtype, shape, data in read_safetensors(folder / "golden.safetensors"):
        if name in ("short.ids", "short.logits"):
            golden[name] = data.view(torch.int32 if dtype == "I32" else torch.float32).reshape(shape)
    logits = DeepseekV3(folder).logits(golden["short.ids"].tolist())
    error = (logits - golden["short.logits"]).abs().max().item()
    print(f"{folder.name}: largest error of a logit {error:.1e}")
    if not error < 1e-5:
        sys.exit("this is not the reference's model")


def main():
    r1, models = sys.argv[1], pathlib.Path(sys.argv[2])
    check_against_golden(models / "deepseek-v3-fp8")
    text = (HERE / "text.txt").read_text()
    ids = subprocess.run([r1, "tokenize", NANO], input=text, text=True, check=True, stdout=subprocess.PIPE).stdout
    model = DeepseekV3(NANO)
    ids = [int(i) for i in ids.split()]
    assert ids[0] == model.c["bos_token_id"]  # text.txt begins with it
    logprobs = []
    for begin in range(0, len(ids) - CONTEXT + 1, CONTEXT):
        window = [ids[0]] + ids[begin + 1 : begin + CONTEXT]
        log_p = model.logits(window).log_softmax(-1)
        logprobs += [log_p[t - 1, window[t]].item() for t in range(CONTEXT // 2 + 1, CONTEXT)]
    nll = torch.tensor(logprobs, dtype=torch.float64).neg()
    result = {
        "context": CONTEXT,
        "n_tokens": len(logprobs),
        "perplexity": nll.mean().exp().item(),
        "standard_error": (nll.mean().exp() * nll.std() / math.sqrt(len(logprobs))).item(),
        "logprobs": [round(x, 7) for x in logprobs],
    }
    (HERE / "reference.json").write_text(json.dumps(result) + "\n")
    print({k: v for k, v in result.items() if k != "logprobs"})


main()
