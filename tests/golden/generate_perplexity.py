"""Makes perplexity.json: what models of this folder make of random tokens, with sliding windows.

    pip install torch==2.15.0 transformers==5.23.0
    python tests/golden/generate_perplexity.py tests/golden

The loop is the one of transformers' page on the perplexity of fixed-length models, with the tokens of each window
counted exactly: that page takes one too many off the windows after the first.
"""

import json
import sys
from pathlib import Path

import torch
import transformers

folder = Path(sys.argv[1])
torch.manual_seed(0)
cases = []
for name in ["gpt2-tiny", "mistral-tiny", "qwen3-tiny"]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / name).eval().double()
    tokens = torch.randint(0, model.config.vocab_size, (1, 101))
    for context_length, stride in [(16, 16), (16, 5), (16, 1), (20, 7), (20, 13)]:
        # Counted with the last target, which ours does not.
        max_length = context_length + 1
        seq_len = tokens.size(1)
        nll_sum, n_tokens, prev_end_loc = 0.0, 0, 0
        for begin_loc in range(0, seq_len, stride):
            end_loc = min(begin_loc + max_length, seq_len)
            trg_len = end_loc - prev_end_loc
            input_ids = tokens[:, begin_loc:end_loc]
            target_ids = input_ids.clone()
            target_ids[:, :-trg_len] = -100
            with torch.no_grad():
                loss = model(input_ids, labels=target_ids).loss.double().item()
            num_loss_tokens = (target_ids[:, 1:] != -100).sum().item()
            nll_sum += loss * num_loss_tokens
            n_tokens += num_loss_tokens
            prev_end_loc = end_loc
            if end_loc == seq_len:
                break
        cases.append(
            dict(
                model=name,
                tokens=tokens[0].tolist(),
                context_length=context_length,
                stride=stride,
                predicted=n_tokens,
                loss=nll_sum / n_tokens,
            )
        )
lines = ",\n".join(json.dumps(case) for case in cases)
(folder / "perplexity.json").write_text(f"[\n{lines}\n]\n")
