"""Makes the goldens of this folder: tiny random models of Hugging Face and what they compute.

    pip install torch==2.15.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0
    python tests/golden/generate.py tests/golden [--all]

The files here were made with these versions, on a CPU. Folders that are there are left alone, unless --all is given.
gpt2-tiny and llama-tiny were made elsewhere.
"""

import argparse
import json
import zlib
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

ROWS, COLUMNS = 2, 24

# Head widths, windows, caps and scalings are such that leaving one out moves the logits.
SIZES = dict(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
)

CONFIGURATIONS = {
    # Of its four wavelengths, one is kept, one lies between, and two are stretched.
    "llama3-tiny": lambda: transformers.LlamaConfig(
        **SIZES,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 100.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "mistral-tiny": lambda: transformers.MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=7),
    "qwen2-tiny": lambda: transformers.Qwen2Config(**SIZES, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen3-tiny": lambda: transformers.Qwen3Config(
        **{**SIZES, "intermediate_size": 40}, num_key_value_heads=2, head_dim=12
    ),
    "gemma-tiny": lambda: transformers.GemmaConfig(**SIZES, num_key_value_heads=1, head_dim=12),
    "gemma2-tiny": lambda: transformers.Gemma2Config(
        **{**SIZES, "num_hidden_layers": 3, "intermediate_size": 24},
        num_key_value_heads=2,
        head_dim=10,
        query_pre_attn_scalar=20,
        sliding_window=7,
        attn_logit_softcapping=1.5,
        final_logit_softcapping=3.0,
    ),
    "gpt-neox-tiny": lambda: transformers.GPTNeoXConfig(
        **{**SIZES, "num_attention_heads": 2},
        use_parallel_residual=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    ),
    "phi-tiny": lambda: transformers.PhiConfig(
        **SIZES,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    ),
}


def make_model(name, folder):
    torch.manual_seed(zlib.crc32(name.encode()))
    # Only the eager implementation of attention caps scores.
    model = transformers.AutoModelForCausalLM.from_config(
        CONFIGURATIONS[name](), attn_implementation="eager", dtype=torch.float32
    ).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):
                parameter.normal_(0.0, 0.2)
            elif parameter.dim() == 1:
                # Gemma stores what its norms' factors have beyond one.
                parameter.normal_(0.0 if "gemma" in name else 1.0, 0.2)
            else:
                parameter.normal_(0.0, 0.15)

        ids = torch.randint(model.config.vocab_size, (ROWS, COLUMNS + 1))
        input_ids, target_ids = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        logits = model(input_ids=input_ids).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target_ids.flatten())

    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    reference = {
        "input_ids": input_ids,
        "target_ids": target_ids,
        "logits": logits.contiguous(),
        "loss": loss.reshape(1),
    }
    save_file(reference, folder / "reference.safetensors")


END_OF_TEXT = "<|endoftext|>"

TRAINING_TEXT = [
    "The old lamp on the harbour wall burned through the night, and the ships came home by it.",
    "When the wind turned, the keeper's daughter carried oil up the hundred steps, one can at a time.",
    "They didn't ask who was there; they knew the sound of the boots on the stones.",
    "In the year 1984 there were 12 ships, in 1985 there were 13, and then there were none.",
    "Über den Wellen lag ein grauer Himmel; l'été était déjà fini, et les bateaux étaient rentrés.",
    "    while the light is on:\n        wait(10)\n        turn(the_lamp)\n",
]

TEXTS = [
    "",
    "The lamp on the wall",
    " the lamp  on   the wall ",
    "They'll ask: who's there? I'd say it wasn't me.",
    "in 2024, 12345 ships",
    "\n\n\tthe\r\n  end\n",
    "déjà vu, Übermut, naïve",
    "e\u0301 is not é",
    "Привет, мир! 你好，世界。こんにちは",
    "🙂👩‍👩‍👧‍👦🇫🇷 !?",
    "a\u00a0b\u2003c\u200bd\ufeff",
    "\u0000\u0001\u007f",
    END_OF_TEXT,
    f"The end.{END_OF_TEXT}The {END_OF_TEXT} <|endoftext> <|endoftext|",
    "while(x!=0){x-=1;} // done",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]


def make_tokenizer(name, folder):
    tokenizer = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=299, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING_TEXT * 3, trainer)
    # As in GPT-2, whose vocabulary ends in the special token, which is no part of a merge.
    trained = json.loads(tokenizer.to_str())["model"]
    vocabulary = {**trained["vocab"], END_OF_TEXT: len(trained["vocab"])}
    merges = [tuple(pair) for pair in trained["merges"]]
    tokenizer = byte_level(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, normalized=True, special=True)])

    expected = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text, text
        expected.append({"text": text, "ids": ids})
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))
    lines = ",\n".join(json.dumps(case) for case in expected)
    (folder / "expected.json").write_text(f"[\n{lines}\n]\n")


def byte_level(model):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--all", action="store_true", help="make those again that are there")
    arguments = parser.parse_args()
    makers = {**dict.fromkeys(CONFIGURATIONS, make_model), "tokenizer-tiny": make_tokenizer}
    for name, make in makers.items():
        folder = arguments.folder / name
        if arguments.all or not folder.exists():
            make(name, folder)
            print(f"made {folder}")


if __name__ == "__main__":
    main()
