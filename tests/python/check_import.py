"""Compares imported models with transformers, for options that no golden has.

    python tests/python/check_import.py [--emberlm PATH]

Logits must agree to 2e-5: both compute in f32 and add in another order.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers

TOLERANCE = 2e-5
IDS = [5, 9, 60, 3, 44, 2, 71, 80, 13, 5, 9, 1, 30, 31, 32, 33]
SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
GPT2_SIZES = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 100.0,
}
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 700.0}
HALF_ROTATED = {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5}


def as_transformers_4(settings):
    """Rotary positions as transformers 4 wrote them."""
    rope = settings.pop("rope_parameters")
    settings["rope_theta"] = rope.pop("rope_theta")
    rope["type"] = rope["rope_type"]
    settings["rope_scaling"] = None if rope["rope_type"] == "default" else rope


def as_old_neox(settings):
    rope = settings.pop("rope_parameters")
    settings["rotary_pct"] = rope["partial_rotary_factor"]
    settings["rotary_emb_base"] = rope["rope_theta"]


def without_layer_types(settings):
    del settings["layer_types"]


# A name, the class without `ForCausalLM`, options, a change of config.json.
CASES = [
    ("phi-qk-norm", "Phi", {"qk_layernorm": True}, None),
    ("phi-shared-heads", "Phi", {"num_key_value_heads": 2}, None),
    ("neox-sequential", "GPTNeoX", {"use_parallel_residual": False, "attention_bias": False}, None),
    ("neox-old", "GPTNeoX", {"rope_parameters": HALF_ROTATED}, as_old_neox),
    ("llama-linear", "Llama", {"rope_parameters": LINEAR}, None),
    ("llama-linear-4", "Llama", {"rope_parameters": LINEAR}, as_transformers_4),
    ("llama3-4", "Llama", {"rope_parameters": LLAMA3}, as_transformers_4),
    ("llama-bias", "Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}, None),
    ("mistral-no-window", "Mistral", {"num_key_value_heads": 2, "sliding_window": None}, None),
    (
        "qwen2-window",
        "Qwen2",
        {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0},
        without_layer_types,
    ),
    ("qwen3-bias", "Qwen3", {"num_key_value_heads": 2, "head_dim": 8, "attention_bias": True}, None),
    (
        "gemma2-no-caps",
        "Gemma2",
        {
            "num_key_value_heads": 2,
            "head_dim": 8,
            "sliding_window": 5,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
        without_layer_types,
    ),
    ("gpt2-unscaled", "GPT2", {"scale_attn_weights": False, "activation_function": "relu", "n_inner": 40}, None),
    ("gpt2-untied", "GPT2", {"tie_word_embeddings": False}, None),
]


def build(name, options):
    if name == "GPT2":
        special = {"bos_token_id": None, "eos_token_id": None}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2_SIZES, **special, **options))
    config = getattr(transformers, f"{name}Config")(**SIZES, **options)
    return getattr(transformers, f"{name}ForCausalLM")(config)


def run(*command):
    output = subprocess.run(command, capture_output=True, text=True)
    if output.returncode:
        sys.exit(f"{' '.join(command)}: {output.stderr}")
    return output.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--emberlm", default="target/release/emberlm")
    emberlm = parser.parse_args().emberlm
    torch.manual_seed(0)
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        artifacts = f"{temporary}/artifacts"
        for name, kind, options, change in CASES:
            model = build(kind, options).eval().float()
            with torch.no_grad():
                # Wide enough that leaving an option out moves the logits.
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.15)
                expected = model(torch.tensor([IDS])).logits[0].double()
            folder = Path(temporary) / name
            model.save_pretrained(folder)
            if change:
                path = folder / "config.json"
                settings = json.loads(path.read_text())
                change(settings)
                path.write_text(json.dumps(settings))
            run(emberlm, "import", str(folder), "--artifacts", artifacts)
            ids = ",".join(map(str, IDS))
            output = run(emberlm, "logits", name, "--artifacts", artifacts, "--json", "--tokens", ids)
            found = torch.tensor(json.loads(output)["logits"], dtype=torch.float64)
            difference = (found - expected).abs().max().item()
            failed |= not difference < TOLERANCE
            print(f"{name:<18} largest difference {difference:.2e}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
