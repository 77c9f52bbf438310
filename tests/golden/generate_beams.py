"""Makes beams.json: what transformers' beam search finds with two of the models of this folder.

    pip install torch==2.15.0 transformers==5.23.0
    python tests/golden/generate_beams.py tests/golden
"""

import json
import sys
from pathlib import Path

import torch
import transformers

folder = Path(sys.argv[1])
torch.manual_seed(0)
cases = []
for name in ["mistral-tiny", "qwen3-tiny"]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / name).eval()
    for prompt, beams, length_penalty, stop_tokens, max_tokens in [
        ([5, 17, 3], 2, 1.0, [7], 12),
        ([5, 17, 3], 4, 0.0, [7, 20, 33, 61], 12),
        ([40], 5, 2.0, list(range(0, 97, 8)), 20),
        ([40, 8, 9, 10, 11, 12, 13, 14, 15], 3, -1.0, list(range(0, 97, 8)), 12),
        ([1, 2], 4, 1.0, list(range(0, 97, 3)), 30),
        ([60], 3, 1.0, [96], 1),
        ([60], 6, 0.7, [], 9),
    ]:
        found = model.generate(
            torch.tensor([prompt]),
            num_beams=beams,
            num_return_sequences=beams,
            length_penalty=length_penalty,
            eos_token_id=stop_tokens or None,
            pad_token_id=96,
            max_new_tokens=max_tokens,
            do_sample=False,
            early_stopping=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
        lengths = (found.beam_indices >= 0).sum(1).tolist()
        rows = zip(found.sequences.tolist(), lengths, found.sequences_scores.tolist())
        cases.append(
            dict(
                model=name,
                prompt=prompt,
                beams=beams,
                length_penalty=length_penalty,
                stop_tokens=stop_tokens,
                max_tokens=max_tokens,
                found=[
                    dict(tokens=row[len(prompt) :][:length], score=score)
                    for row, length, score in rows
                ],
            )
        )
lines = ",\n".join(json.dumps(case) for case in cases)
(folder / "beams.json").write_text(f"[\n{lines}\n]\n")
