"""What benches/tokenizers.sh runs: gathers a text, and compares emberlm with Python's packages.

    compare_tokenizers.py text FILE
    compare_tokenizers.py compare TEXT --emberlm PROGRAM ...

Every run is a process of its own, and the programs take turns: A B A B. What is inside the time:

train    From the text in memory to the trained tokenizer: splitting it into words, counting these,
         and merging. emberlm writes the text of its tokenizer.json inside the time as well. The
         package gets documents from a list, each of DOCUMENT characters or more and cut between
         words; both use all cores, the same pattern and the same special tokens. That both have
         learned the same tokens is checked once.
encode   From the text in memory to all of its ids in memory, as a list of Python's for tiktoken.
         As one text on one thread; and as a batch of documents on one thread and on two. That the
         ids are the same is checked at every run, outside the time.
prepare  `emberlm bench prepare` on one file: from the file to the finished folder of token files.
loader   `emberlm bench train --shape s`: the part of a training step that is spent waiting for
         data.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from datetime import date
from pathlib import Path

# Bytes of a document in a batch; characters of one that is trained on.
DOCUMENT = 1 << 14
# Times that a process encodes the text; the median is its run, since the first time has the memory
# to fetch from the system.
REPEAT = 3
SPECIAL = ["<|bos|>", "<|eos|>", "<|pad|>", "<|unk|>"]

# Dictionaries, an encyclopedia of computing, and quotations: English, nearly all of it once.
PACKAGES = ["dict-gcide", "dict-wn", "dict-foldoc", "dict-jargon", "fortunes"]
TEXT_BYTES = 100_000_000


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    text = commands.add_parser("text")
    text.add_argument("file", type=Path)
    compare = commands.add_parser("compare")
    compare.add_argument("text", type=Path)
    compare.add_argument("--emberlm", required=True)
    parts = ["train", "encode", "prepare", "loader"]
    compare.add_argument("--only", nargs="+", choices=parts, default=parts)
    compare.add_argument("--pairs", type=int, default=5)
    compare.add_argument("--vocab-size", type=int, default=16000)
    compare.add_argument("--prepare-bytes", type=int, default=1_000_000_000)
    compare.add_argument("--out", type=Path, required=True)
    # A run of a package, in a process of its own.
    train = commands.add_parser("peer-train")
    train.add_argument("text", type=Path)
    train.add_argument("folder", type=Path)
    train.add_argument("vocab_size", type=int)
    encode = commands.add_parser("peer-encode")
    encode.add_argument("text", type=Path)
    encode.add_argument("tokenizer", type=Path)
    encode.add_argument("threads", type=int)
    encode.add_argument("--batch", action="store_true")
    arguments = parser.parse_args()
    {"text": gather, "compare": run_all, "peer-train": peer_train, "peer-encode": peer_encode}[
        arguments.command
    ](arguments)


# The text


def gather(arguments):
    """English from Debian's packages where apt is there, and Rust and its documentation from
    cargo's registry for the rest, each file once."""
    file = arguments.file
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    seen = set()
    with open(part, "wb") as out:
        for text in [*debian_texts(), *registry_texts()]:
            # Invalid bytes are left out, and copies of a file.
            text = text.decode("utf-8", "ignore").replace("\0", "").encode()
            digest = hashlib.sha256(text).digest()
            if digest not in seen:
                seen.add(digest)
                out.write(text)
            if out.tell() >= TEXT_BYTES:
                break
    size = part.stat().st_size
    if size < TEXT_BYTES:
        print(f"note: {file} has {size} bytes only; there was no more text", file=sys.stderr)
    part.rename(file)


def debian_texts():
    """The packages' texts, unpacked and not installed."""
    import gzip

    with tempfile.TemporaryDirectory() as folder:
        for package in PACKAGES:
            command = f"apt-get download -q {package} && dpkg-deb -x {package}_*.deb {package}"
            done = subprocess.run(command, shell=True, cwd=folder, capture_output=True)
            if done.returncode != 0:
                print(f"note: no {package}; `apt-get update` may help", file=sys.stderr)
        for path in sorted(Path(folder).rglob("usr/share/dictd/*.dict.dz")):
            yield gzip.decompress(path.read_bytes())
        for path in sorted(Path(folder).rglob("usr/share/games/fortunes/*")):
            if path.is_file() and not path.is_symlink() and path.suffix not in [".dat", ".u8"]:
                yield path.read_bytes()


def registry_texts():
    cargo = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    crates = sorted(cargo.glob("registry/src/*/*"))
    for crate in crates:
        # Bindings that a program has written are no code to read.
        if crate.name.startswith(("windows", "winapi", "web-sys", "linux-raw", "libc")):
            continue
        for suffix in [".md", ".rs"]:
            for path in sorted(crate.rglob("*" + suffix)):
                if path.is_file() and path.stat().st_size < 1 << 20:
                    yield path.read_bytes()


# The packages


def peer_train(arguments):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    text = read(arguments.text)
    documents = [*unbroken_documents(text)]
    # The pattern of the tokenizer that emberlm has trained.
    ours = Tokenizer.from_file(str(arguments.folder / "tokenizer.json"))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = ours.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=arguments.vocab_size,
        min_frequency=0,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    started = time.perf_counter()
    tokenizer.train_from_iterator(documents, trainer)
    seconds = time.perf_counter() - started
    model = json.loads(tokenizer.to_str())["model"]
    print(json.dumps({"seconds": seconds, "learned": checksum_of_model(model)}))


def read(path):
    """The text as it is; line ends are not changed."""
    with open(path, encoding="utf-8", newline="") as file:
        return file.read()


def unbroken_documents(text):
    """Parts that have the words of the whole: they end between a line whose last character is no
    space and a line that begins with a letter."""
    start = end = 0
    lines = text.split("\n")
    for number, line in enumerate(lines):
        begins = line[:1].isascii() and line[:1].isalpha()
        after = number > 0 and lines[number - 1][-1:].strip() != ""
        if begins and after and end - start >= DOCUMENT:
            yield text[start:end]
            start = end
        end += len(line) + 1
    yield text[start:]


def checksum_of_model(model):
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    return hashlib.sha256(json.dumps([model["vocab"], merges], sort_keys=True).encode()).hexdigest()


def peer_encode(arguments):
    import tiktoken
    from tiktoken_ext.openai_public import r50k_pat_str

    text = read(arguments.text)
    ranks = ranks_of(arguments.tokenizer)
    encoding = tiktoken.Encoding(
        "gpt2",
        pat_str=r50k_pat_str,
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": len(ranks)},
    )
    documents = [*documents_of(text)] if arguments.batch else [text]
    times = []
    for _ in range(REPEAT):
        ids = None
        started = time.perf_counter()
        if arguments.batch:
            ids = encoding.encode_ordinary_batch(documents, num_threads=arguments.threads)
        else:
            ids = [encoding.encode_ordinary(text)]
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    digest = hashlib.sha256()
    for of_document in ids:
        of_document = array("I", of_document)
        if sys.byteorder == "big":
            of_document.byteswap()
        digest.update(of_document.tobytes())
    tokens = sum(map(len, ids))
    result = {"seconds": seconds, "tokens": tokens, "ids_sha256": digest.hexdigest()}
    print(json.dumps(result))


def ranks_of(folder):
    """The bytes of GPT-2's tokens, of the tokenizer.json that emberlm writes: there each byte is
    the character that GPT-2 has for it."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    of_character = {chr(byte): byte for byte in plain}
    of_character |= {chr(256 + number): byte for number, byte in enumerate(others)}
    description = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"] for token in description["added_tokens"]}
    return {
        bytes(of_character[character] for character in token): rank
        for token, rank in description["model"]["vocab"].items()
        if token not in special
    }


def documents_of(text):
    """As `emberlm bench encode --document-bytes` cuts: whole lines, until there are so many
    bytes."""
    *lines, last = text.split("\n")
    document, size = [], 0
    for line in lines:
        document.append(line + "\n")
        size += len(line.encode()) + 1
        if size >= DOCUMENT:
            yield "".join(document)
            document, size = [], 0
    rest = "".join(document) + last
    if rest:
        yield rest


# The comparison


def run_all(arguments):
    emberlm, text = arguments.emberlm, arguments.text
    size = text.stat().st_size
    result = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": versions(emberlm),
        "text": {"bytes": size, "sha256": sha256_of(text)},
    }
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for part in arguments.only:
            result[part] = globals()["compare_" + part](arguments, folder)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nresults: {arguments.out}")


def compare_train(arguments, folder):
    text, vocab_size = arguments.text, str(arguments.vocab_size)
    own = folder / "trained"
    call([arguments.emberlm, "tokenizer", "train", text, "--vocab-size", vocab_size, "--out", own])
    learned = checksum_of_model(json.loads((own / "tokenizer.json").read_text())["model"])
    programs = {
        "emberlm": ours(arguments, "tokenizer-train", text, "--vocab-size", vocab_size),
        "tokenizers": peer("peer-train", text, own, vocab_size),
    }
    title = f"training {vocab_size} tokens on {megabytes(text)} MB, all cores"
    found = alternate(title, programs, arguments.pairs)
    same = all(run["learned"] == learned for run in found["runs"]["tokenizers"])
    print(f"the same tokens: {'yes' if same else 'NO'}")
    ratios = {"emberlm / tokenizers": ("emberlm", "tokenizers")}
    return summary(found, text, ratios) | {"same_tokens": same}


def compare_encode(arguments, folder):
    text, gpt2 = arguments.text, folder / "gpt2"
    call([arguments.emberlm, "tokenizer", "export", "gpt2", gpt2])
    own = lambda *more: ours(arguments, "encode", text, "--tokenizer", "gpt2", "--repeat", REPEAT, *more)
    whole = {
        "emberlm": own("--threads", 1),
        "tiktoken": peer("peer-encode", text, gpt2, 1),
    }
    title = f"encoding {megabytes(text)} MB as one text on one thread, GPT-2's vocabulary"
    found = alternate(title, whole, arguments.pairs)
    check_ids(found)
    result = {
        "one_text": summary(found, text, {"emberlm / tiktoken": ("emberlm", "tiktoken")}),
    }

    cut = ["--document-bytes", DOCUMENT]
    batches = {
        "emberlm, 1 thread": own("--threads", 1, *cut),
        "emberlm, 2 threads": own("--threads", 2, *cut),
        "tiktoken, 1 thread": peer("peer-encode", text, gpt2, 1, "--batch"),
        "tiktoken, 2 threads": peer("peer-encode", text, gpt2, 2, "--batch"),
    }
    title = f"encoding {megabytes(text)} MB as documents of {DOCUMENT} bytes"
    found = alternate(title, batches, arguments.pairs)
    check_ids(found)
    ratios = {
        "emberlm / tiktoken, 1 thread": ("emberlm, 1 thread", "tiktoken, 1 thread"),
        "emberlm / tiktoken, 2 threads": ("emberlm, 2 threads", "tiktoken, 2 threads"),
        "emberlm, 2 threads / 1": ("emberlm, 2 threads", "emberlm, 1 thread"),
        "tiktoken, 2 threads / 1": ("tiktoken, 2 threads", "tiktoken, 1 thread"),
    }
    result["documents"] = summary(found, text, ratios)
    return result


def check_ids(found):
    digests = {run["ids_sha256"] for runs in found["runs"].values() for run in runs}
    if len(digests) != 1:
        sys.exit("the programs do not agree on the ids")
    print("the same ids: yes")


def compare_prepare(arguments, folder):
    large = folder / "large.txt"
    text = arguments.text.read_bytes()
    with open(large, "wb") as out:
        while out.tell() < arguments.prepare_bytes:
            # Cut at a line break, so that no character is cut.
            rest = text[: arguments.prepare_bytes - out.tell()]
            out.write(rest if len(rest) == len(text) else rest[: rest.rfind(b"\n") + 1])
            if len(rest) < len(text):
                break
    print(f"\npreparing {megabytes(large)} MB with GPT-2's vocabulary, all cores")
    runs = []
    for _ in range(min(3, arguments.pairs)):
        run = measured(ours(arguments, "prepare", large, "--tokenizer", "gpt2"))
        print(f"  {run['seconds']:8.2f} s {run['mb_per_s']:8.1f} MB/s {run['peak_mib']:8.0f} MiB")
        runs.append(run)
    large.unlink()
    return {
        "bytes": runs[0]["bytes"],
        "mb_per_s": statistics.median(run["mb_per_s"] for run in runs),
        "peak_mib": max(run["peak_mib"] for run in runs),
        "runs": runs,
    }


def compare_loader(arguments, folder):
    print("\nwhat a training step of shape s waits for data")
    runs = []
    for _ in range(arguments.pairs):
        run = measured(ours(arguments, "train", "--shape", "s", "--steps", 200))
        print(
            f"  {run['step_ms']:8.2f} ms a step, waiting {run['wait_ms_mean']:.4f} ms: "
            f"{run['wait_percent']:.3f}%; the batch itself {run['read_ms']:.4f} ms"
        )
        runs.append(run)
    return {
        "wait_percent": statistics.median(run["wait_percent"] for run in runs),
        "read_percent": statistics.median(run["read_percent"] for run in runs),
        "runs": runs,
    }


def ours(arguments, *command):
    return [arguments.emberlm, "bench", *command, "--json"]


def peer(*command):
    return [sys.executable, __file__, *command]


def call(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def measured(command):
    return json.loads(call(command))


def alternate(title, programs, pairs):
    """All programs in turn, `pairs` times."""
    print(f"\n{title}")
    runs = {name: [] for name in programs}
    print("  run  " + "".join(f"{name:>22}" for name in programs))
    for number in range(pairs):
        for name, command in programs.items():
            runs[name].append(measured(command))
        seconds = [runs[name][number]["seconds"] for name in programs]
        print(f"  {number + 1:>3}  " + "".join(f"{time:>20.3f} s" for time in seconds), flush=True)
    return {"title": title, "runs": runs}


def summary(found, text, ratios):
    """Medians, and how much faster one is than the other: above 1 the first is."""
    runs = found["runs"]
    medians = {name: statistics.median(run["seconds"] for run in runs[name]) for name in runs}
    size = text.stat().st_size
    for name, seconds in medians.items():
        print(f"  {name:<22} median {seconds:8.3f} s {size / 1e6 / seconds:8.1f} MB/s")
    speedups = {name: medians[slow] / medians[fast] for name, (fast, slow) in ratios.items()}
    for name, speedup in speedups.items():
        print(f"  {name:<32} {speedup:6.2f} times as fast")
    return {
        "title": found["title"],
        "median_seconds": medians,
        "mb_per_s": {name: size / 1e6 / seconds for name, seconds in medians.items()},
        "times_as_fast": speedups,
        "runs": runs,
    }


def megabytes(path):
    return round(path.stat().st_size / 1e6)


def sha256_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def machine():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "load": os.getloadavg()[0],
    }


def versions(emberlm):
    import tiktoken
    import tokenizers

    return {
        "emberlm": call([emberlm, "--version"]).split()[-1],
        "tokenizers": tokenizers.__version__,
        "tiktoken": tiktoken.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
