"""Trains a tokenizer with emberlm and compares its ids with those of the Python package tokenizers.

    python tests/python/check_tokenizer.py TEXT [--emberlm PATH] [--vocab-size N]

TEXT is a UTF-8 file. Trains on it with each split pattern, loads the folder with tokenizers (and
with transformers where that is installed), and compares the ids of its paragraphs and of texts with
special tokens and odd Unicode. Also trains with the package itself on the same text: the merges
must be the same.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ["<|bos|>", "<|eos|>", "<|pad|>", "<|unk|>", "<|user|>"]
GPT4 = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
ODD = [
    "",
    " ",
    "\n",
    "\r\n\r\n \t\v\f",
    "<|bos|>one<|eos|><|eos|> two <|pad|><|unk|><|user|",
    "<|user|>: don't DON'T we'll WE'LL it\u2019s \u017f'\u017f",
    "e\u0301 \u00e9 \ufb01 \u212b \U0001f980\U0001f468\u200d\U0001f469\u200d\U0001f467 \ufffd\ufeff",
    "\u4e16\u754c\u3000\u0645\u0631\u062d\u0628\u0627 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22",
    "\u00bd \u00b2 \u2167 \u0661\u0662\u0663\u0664 1234567 3.14",
    "a\u00a0b\u2003c\u2028d\u0085e\u200bf",
    "\x00\x01\x7f\x1b[0m",
    "def f(x):\n\treturn  x  # ...\n\n\n",
]


def random_text(generator):
    ranges = [(0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x4E00, 0x4F00), (0x1F600, 0x1F640)]
    pick = lambda: chr(generator.randint(*generator.choice(ranges)))
    pieces = [pick() for _ in range(generator.randrange(60))]
    return "".join(generator.choice([piece, piece, " ", "\n", "'"]) for piece in pieces)


# Anchors are those of lines.
PATTERNS = {"gpt4": GPT4, "lines": r" ?\w+(?=\w$)|^[A-Z]+| ?\w+|\s+|[^\w\s]+"}


def emberlm_ids(program, folder, texts):
    """The ids of many texts, each in a call of its own."""
    for text in texts:
        command = [program, "tokenizer", "encode", str(folder), "--json"]
        output = subprocess.run(command, input=text.encode(), check=True, capture_output=True)
        yield json.loads(output.stdout)


def peer(split, paragraphs, vocab_size):
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split == "gpt2")
    if split in PATTERNS:
        isolated = pre_tokenizers.Split(Regex(PATTERNS[split]), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([isolated, byte_level])
    else:
        tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=0,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(paragraphs, trainer)
    return json.loads(tokenizer.to_str())["model"]


def check(split, arguments, paragraphs, texts, folder):
    command = [arguments.emberlm, "tokenizer", "train", arguments.text]
    command += ["--split-regex", PATTERNS[split]] if split == "lines" else ["--split", split]
    command += ["--vocab-size", str(arguments.vocab_size), "--special", "<|user|>"]
    subprocess.run(command + ["--out", str(folder)], check=True, capture_output=True)
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    for text, found in zip(texts, emberlm_ids(arguments.emberlm, folder, texts)):
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        if found != expected:
            sys.exit(f"{split}: {text!r} is {found} here and {expected} there")
        decoded = tokenizer.decode(expected, skip_special_tokens=False)
        if decoded != text:
            sys.exit(f"{split}: tokenizers gives back {decoded!r} for {text!r}")
    own = json.loads(Path(path).read_text())["model"]
    other = peer(split, paragraphs, arguments.vocab_size)
    same = own["vocab"] == other["vocab"]
    same = same and [list(pair) for pair in own["merges"]] == [list(pair) for pair in other["merges"]]
    if not same:
        sys.exit(f"{split}: the package learns other merges")
    print(f"{split}: {len(texts)} texts have the same ids, {len(own['merges'])} merges are the same")
    try:
        from transformers import AutoTokenizer
    except ImportError:
        return
    loaded = AutoTokenizer.from_pretrained(str(folder))
    named = [loaded.bos_token, loaded.eos_token, loaded.pad_token, loaded.unk_token]
    if named != SPECIAL[:4]:
        sys.exit(f"{split}: transformers names {named}")
    for text in texts:
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        if loaded.encode(text, add_special_tokens=False) != expected:
            sys.exit(f"{split}: transformers disagrees on {text!r}")
    print(f"{split}: transformers' {type(loaded).__name__} agrees")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text")
    parser.add_argument("--emberlm", default="target/release/emberlm")
    parser.add_argument("--vocab-size", type=int, default=2000)
    arguments = parser.parse_args()
    text = Path(arguments.text).read_bytes().decode()
    generator = random.Random(1)
    paragraphs = text.split("\n\n")
    texts = ODD + [random_text(generator) for _ in range(100)]
    texts += [generator.choice(paragraphs) for _ in range(100)]
    with tempfile.TemporaryDirectory() as folder:
        # A whole text is one word with `none`; that takes the package long on more than a little.
        for split in ["gpt4", "gpt2", "lines"]:
            check(split, arguments, [text], texts, Path(folder) / split)


if __name__ == "__main__":
    main()
