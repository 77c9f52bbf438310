#!/usr/bin/env python3
"""What benches/compare.sh compares with: a GPT-2 style model in PyTorch, trained or decoded, timed. Prints one JSON line.

  python torch_gpt.py train  --shape s --steps 50 --variant eager|fused|compile [--dtype f32|bf16] [--device cpu|cuda] [--dropout P]
  python torch_gpt.py decode --shape m --steps 200 [--variant eager|compile] [--batch N]

Shapes (layers, heads, width, context, batch, vocabulary; no dropout unless asked for, untied bias-free head, biases elsewhere):
  s    4  4 128   64 12    65   nanoGPT's CPU recipe for character-level Shakespeare
  m    6  6 384  256  8    65   nanoGPT's GPU recipe at batch 8
  l   12 12 768  256  1 50257   GPT-2 124M, short context
  xl  12 12 768 1024  8 50304   GPT-2 124M as trained on one GPU (use --device cuda --dtype bf16)
train: one step = forward, mean cross-entropy, backward, global-norm clip at 1.0, AdamW, loss read back to the host.
decode: one sequence, or as many as the batch, greedy, preallocated key/value cache, prompt of one token.
Units: ms_per_step median over the timed steps; tokens_per_s; peak_rss_mib; peak_gpu_mib that was allocated, and
peak_gpu_reserved_mib that the allocator held.
"""
import argparse, json, os, resource, statistics, time
import torch, torch.nn as nn, torch.nn.functional as F

SHAPES = dict(s=(4, 4, 128, 64, 12, 65), m=(6, 6, 384, 256, 8, 65), l=(12, 12, 768, 256, 1, 50257), xl=(12, 12, 768, 1024, 8, 50304))

class Block(nn.Module):
    def __init__(self, heads, width, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, cache=None, pos=0):
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        if cache is not None:
            cache[0][:, :, pos:pos + T], cache[1][:, :, pos:pos + T] = k, v
            k, v = cache[0][:, :, :pos + T], cache[1][:, :, :pos + T]
        p = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None, dropout_p=p)
        x = x + F.dropout(self.out(y.transpose(1, 2).reshape(B, T, C)), p)
        return x + F.dropout(self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh")), p)

class Gpt(nn.Module):
    def __init__(self, layers, heads, width, context, vocab, dropout):
        super().__init__()
        self.dropout = dropout
        self.tok, self.pos = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(heads, width, dropout) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocab, bias=False)
        for p in self.parameters():
            if p.dim() >= 2: nn.init.normal_(p, std=0.02)

    def forward(self, ids, caches=None, pos=0):
        x = self.tok(ids) + self.pos(torch.arange(pos, pos + ids.size(1), device=ids.device))
        x = F.dropout(x, self.dropout, self.training)
        for i, b in enumerate(self.blocks): x = b(x, None if caches is None else caches[i], pos)
        return self.head(self.norm(x))

def main():
    a = argparse.ArgumentParser()
    a.add_argument("mode", choices=["train", "decode"]); a.add_argument("--shape", default="s", choices=SHAPES)
    a.add_argument("--steps", type=int, default=50); a.add_argument("--warmup", type=int, default=5)
    a.add_argument("--variant", default="eager", choices=["eager", "fused", "compile"])
    a.add_argument("--dtype", default="f32", choices=["f32", "bf16"]); a.add_argument("--device", default="cpu")
    a.add_argument("--threads", type=int, default=os.cpu_count()); a.add_argument("--batch", type=int)
    a.add_argument("--dropout", type=float, default=0.0)
    a = a.parse_args()
    torch.manual_seed(0); torch.set_num_threads(a.threads)
    if a.device == "cuda": torch.set_float32_matmul_precision("high")
    L, H, C, T, B, V = SHAPES[a.shape]; B = a.batch or (B if a.mode == "train" else 1)
    model = Gpt(L, H, C, T, V, a.dropout).to(a.device); params = sum(p.numel() for p in model.parameters())
    sync = torch.cuda.synchronize if a.device == "cuda" else (lambda: None)
    amp = lambda: torch.autocast(a.device, torch.bfloat16, enabled=a.dtype == "bf16")
    times, losses = [], []
    if a.mode == "train":
        run = torch.compile(model) if a.variant == "compile" else model
        opt = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=a.variant != "eager")
        for i in range(a.warmup + a.steps):
            ids = torch.randint(0, V, (B, T + 1), device=a.device); sync(); t = time.perf_counter()
            with amp(): loss = F.cross_entropy(run(ids[:, :-1]).float().view(-1, V), ids[:, 1:].reshape(-1))
            opt.zero_grad(set_to_none=True); loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0); opt.step(); losses.append(loss.item()); sync()
            if i >= a.warmup: times.append(time.perf_counter() - t)
        tokens = B * T
    else:
        model.eval(); run = torch.compile(model) if a.variant == "compile" else model
        with torch.inference_mode(), amp():
            for rep in range(2):  # the first pass warms up
                caches = [[torch.zeros(B, H, T, C // H, device=a.device) for _ in "kv"] for _ in range(L)]
                ids = torch.zeros(B, 1, dtype=torch.long, device=a.device); times = []
                for pos in range(min(a.steps, T)):
                    sync(); t = time.perf_counter()
                    ids = run(ids, caches, pos)[:, -1].argmax(-1, keepdim=True); ids.cpu()
                    times.append(time.perf_counter() - t)
        tokens = B
    ms = 1e3 * statistics.median(times)
    print(json.dumps(dict(peer="torch " + torch.__version__, mode=a.mode, shape=a.shape, variant=a.variant, dtype=a.dtype, device=a.device,
        threads=a.threads, params=params, batch=B, ms_per_step=round(ms, 3), tokens_per_s=round(tokens / ms * 1e3, 1),
        first_loss=losses[0] if losses else None, last_loss=losses[-1] if losses else None,
        peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        peak_gpu_mib=torch.cuda.max_memory_allocated() // 2**20 if a.device == "cuda" else None,
        peak_gpu_reserved_mib=torch.cuda.max_memory_reserved() // 2**20 if a.device == "cuda" else None)))

if __name__ == "__main__": main()
