"""Makes src/train/golden.json: what PyTorch computes for the models that `emberlm doctor` tries a device with.

    pip install torch==2.15.0 transformers==5.23.0
    python tests/golden/generate_doctor.py src/train/golden.json

The weights are numbers that need no file: `numbers` below, in the order of our parameters, of which src/train/golden.rs
says the same. The loss and the norm of all gradients are computed in 64-bit floats. The file was made with these
versions, on a CPU. `--errors` prints how far f32 and f32 with products in TF32 come out from them instead.
"""

import argparse
import json

import torch
import transformers

ROWS, COLUMNS, VOCABULARY = 4, 24, 61

# Our configurations, and transformers' of the same models.
MODELS = {
    "gpt2": (
        {
            "d_model": 32,
            "n_layers": 2,
            "n_heads": 4,
            "context_length": COLUMNS,
            "vocab_size": VOCABULARY,
            "feed_forward": {"activation": "gelu-tanh"},
        },
        lambda: transformers.GPT2Config(
            n_embd=32, n_layer=2, n_head=4, n_positions=COLUMNS, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0,
            attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
        ),
    ),
    "llama": (
        {
            "d_model": 32,
            "n_layers": 2,
            "n_heads": 4,
            "n_kv_heads": 2,
            "d_ff": 48,
            "context_length": COLUMNS,
            "vocab_size": VOCABULARY,
            "bias": False,
            "position": {"kind": "rotary"},
            "norm": {"kind": "rms", "epsilon": 1e-5},
            "feed_forward": {"activation": "silu", "gated": True},
            "tied_head": False,
        },
        lambda: transformers.LlamaConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
            max_position_embeddings=COLUMNS, vocab_size=VOCABULARY, rms_norm_eps=1e-5, tie_word_embeddings=False,
        ),
    ),
}


class Numbers:
    """Numbers from -1 to 1 in steps that f32 has, by a generator of Numerical Recipes."""

    def __init__(self):
        self.state = 1

    def next(self):
        self.state = (self.state * 1664525 + 1013904223) % 2**32
        return (self.state >> 8) / 2**23 - 1

    def tensor(self, *shape):
        count = torch.Size(shape).numel()
        return torch.tensor([self.next() for _ in range(count)], dtype=torch.float64).reshape(shape)

    def matrix(self, rows, columns):
        return (self.tensor(rows, columns) * 3 / 8).float()

    def vector(self, width, around):
        return (around + self.tensor(width) * 3 / 8).float()


def gpt2_state(config, numbers):
    d, state = config.n_embd, {}

    def linear(name, inputs, outputs):
        state[f"{name}.weight"] = numbers.matrix(inputs, outputs)
        state[f"{name}.bias"] = numbers.vector(outputs, 0.0)

    def norm(name):
        state[f"{name}.weight"] = numbers.vector(d, 1.0)
        state[f"{name}.bias"] = numbers.vector(d, 0.0)

    state["transformer.wte.weight"] = numbers.matrix(config.vocab_size, d)
    state["transformer.wpe.weight"] = numbers.matrix(config.n_positions, d)
    for layer in range(config.n_layer):
        name = f"transformer.h.{layer}"
        norm(f"{name}.ln_1")
        linear(f"{name}.attn.c_attn", d, 3 * d)
        linear(f"{name}.attn.c_proj", d, d)
        norm(f"{name}.ln_2")
        linear(f"{name}.mlp.c_fc", d, 4 * d)
        linear(f"{name}.mlp.c_proj", 4 * d, d)
    norm("transformer.ln_f")
    state["lm_head.weight"] = state["transformer.wte.weight"]
    return state


def llama_state(config, numbers):
    d, state = config.hidden_size, {}
    width = d // config.num_attention_heads
    queries, keys = config.num_attention_heads * width, config.num_key_value_heads * width

    def norm(name):
        state[f"{name}.weight"] = numbers.vector(d, 1.0)

    state["model.embed_tokens.weight"] = numbers.matrix(config.vocab_size, d)
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}"
        norm(f"{name}.input_layernorm")
        parts = numbers.matrix(d, queries + 2 * keys).split([queries, keys, keys], dim=1)
        for part, weight in zip("qkv", parts):
            state[f"{name}.self_attn.{part}_proj.weight"] = weight.T.contiguous()
        state[f"{name}.self_attn.o_proj.weight"] = numbers.matrix(queries, d).T.contiguous()
        norm(f"{name}.post_attention_layernorm")
        for part in ("gate", "up"):
            state[f"{name}.mlp.{part}_proj.weight"] = numbers.matrix(d, config.intermediate_size).T.contiguous()
        state[f"{name}.mlp.down_proj.weight"] = numbers.matrix(config.intermediate_size, d).T.contiguous()
    norm("model.norm")
    state["lm_head.weight"] = numbers.matrix(d, config.vocab_size).T.contiguous()
    return state


STATES = {"gpt2": gpt2_state, "llama": llama_state}


def load(name):
    numbers = Numbers()
    config = MODELS[name][1]()
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    model.load_state_dict(STATES[name](config, numbers), strict=True)
    rows = [[int((numbers.next() + 1) / 2 * VOCABULARY) for _ in range(COLUMNS + 1)] for _ in range(ROWS)]
    return model.eval(), rows


def loss_and_norm(model, rows):
    rows = torch.tensor(rows)
    logits = model(input_ids=rows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    model.zero_grad()
    loss.backward()
    norm = torch.sqrt(sum((parameter.grad.double() ** 2).sum() for parameter in model.parameters()))
    return loss.item(), norm.item()


class Tf32(torch.utils._python_dispatch.TorchDispatchMode):
    """Rounds the factors of matrix products to the 10 bits of TF32's mantissa."""

    PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.bmm.default, torch.ops.aten.addmm.default}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in self.PRODUCTS:
            args = [*args[:-2], *(self.rounded(factor) for factor in args[-2:])]
        return function(*args, **(kwargs or {}))

    @staticmethod
    def rounded(tensor):
        mantissa, exponent = torch.frexp(tensor)
        return torch.ldexp(torch.round(mantissa * 2**11) / 2**11, exponent)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file", nargs="?")
    parser.add_argument("--errors", action="store_true")
    arguments = parser.parse_args()
    goldens = []
    for name, (config, _) in MODELS.items():
        model, rows = load(name)
        in_f32 = loss_and_norm(model, rows)
        with Tf32():
            in_tf32 = loss_and_norm(model, rows)
        exact = loss_and_norm(model.double(), rows)
        for kind, found in ("f32", in_f32), ("TF32", in_tf32):
            errors = [abs(value / expected - 1) for value, expected in zip(found, exact)]
            print(f"{name} in {kind}: loss off by {errors[0]:.1e}, norm of the gradients by {errors[1]:.1e}")
        loss, norm = exact
        goldens.append({"name": name, "model": config, "tokens": rows, "loss": loss, "gradient_norm": norm})
    if not arguments.errors:
        with open(arguments.file, "w") as file:
            file.write("[\n" + ",\n".join(json.dumps(golden) for golden in goldens) + "\n]\n")


if __name__ == "__main__":
    main()
