"""Compares an exported model with the run it came from, through transformers.

    python tests/python/check_export.py RUN FOLDER [--emberlm PATH] [--artifacts DIR] [--text TEXT]

FOLDER is what `emberlm export RUN --to huggingface FOLDER` wrote. Logits must agree to 1e-4: both
compute in f32 and add in another order.
"""

import argparse
import json
import random
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

TOLERANCE = 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("folder")
    parser.add_argument("--emberlm", default="target/release/emberlm")
    parser.add_argument("--artifacts", default="artifacts")
    parser.add_argument("--text", help="encode this with the exported tokenizer; random ids otherwise")
    arguments = parser.parse_args()

    model, report = AutoModelForCausalLM.from_pretrained(
        arguments.folder, dtype=torch.float32, output_loading_info=True
    )
    model.eval()
    problems = {key: found for key, found in report.items() if found}
    if problems:
        sys.exit(f"from_pretrained reports {problems}")
    if arguments.text is None:
        generator = random.Random(1)
        length = min(64, model.config.max_position_embeddings)
        ids = [generator.randrange(model.config.vocab_size) for _ in range(length)]
    else:
        # AutoTokenizer takes any tokenizer beside a Qwen2 model for Qwen's.
        kind = PreTrainedTokenizerFast if model.config.model_type == "qwen2" else AutoTokenizer
        tokenizer = kind.from_pretrained(arguments.folder)
        ids = tokenizer.encode(arguments.text, add_special_tokens=False)
        decoded = tokenizer.decode(ids)
        if decoded != arguments.text:
            sys.exit(f"the tokenizer gives back {decoded!r}")
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].double()

    command = [arguments.emberlm, "logits", arguments.run, "--artifacts", arguments.artifacts]
    command += ["--json", "--tokens", ",".join(map(str, ids))]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = torch.tensor(json.loads(output)["logits"], dtype=torch.float64)
    difference = (found - expected).abs().max().item()
    print(f"{type(model).__name__}: {len(ids)} positions, largest difference {difference:.2e}")
    if arguments.text is not None:
        print(f"ids {ids}")
    if not difference < TOLERANCE:
        sys.exit(f"more than {TOLERANCE}")


if __name__ == "__main__":
    main()
