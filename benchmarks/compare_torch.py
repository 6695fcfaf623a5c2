"""The shapes of cuda_benchmark and gpu_model_speed through PyTorch and transformers, on the same device:

    python3 benchmarks/compare_torch.py [--part products,attention,step,transformers] [--seconds 0.15]

Prints JSON lines, named as cuda_benchmark names its rows. Times are made as there: weights and caches in turns that
hold more than five times the L2 cache, at least 20 calls in one CUDA graph between two events, the median of many.
Activations are bfloat16 here, where ours are float32 and rounded on the way.

products        torch.nn.functional.linear: cuBLAS; fp8 by torch._scaled_mm where it is there
attention       scaled_dot_product_attention over contiguous caches, decoding and causal prompts
step            a whole decoding step of plain torch operators and a prompt, the step as one CUDA graph: what a careful user of
                torch gets without kernels of his own
transformers    LlamaForCausalLM of the same shape with random weights, as its users run it: eager, a static cache

What isn't installed, or doesn't run, is a line with "not_measured" and the reason. --device cpu --small tries the
program on a processor.
"""
import argparse
import json
import math
import statistics
import sys
import time

LLAMA = dict(hidden=4096, inter=14336, layers=32, heads=32, kv_heads=8, dim=128, vocab=128256)
SMALL = dict(hidden=256, inter=512, layers=2, heads=4, kv_heads=2, dim=64, vocab=1000)


def say(**line):
    print(json.dumps(line), flush=True)


class Machine:
    def __init__(self, torch, device, seconds):
        self.torch, self.device, self.seconds = torch, device, seconds
        self.cuda = device == "cuda"
        l2 = torch.cuda.get_device_properties(0).L2_cache_size if self.cuda else 4 << 20
        self.working_set = 5 * l2

    def normal(self, *shape, deviation=1.0):
        return self.torch.empty(*shape, dtype=self.torch.bfloat16, device=self.device).normal_(0, deviation)

    def copies(self, size):
        return max(1, min(128, math.ceil(self.working_set / size)))

    def wait(self):
        if self.cuda:
            self.torch.cuda.synchronize()

    def record(self, run):
        """The same work as one graph, or the function itself where there is none."""
        if not self.cuda:
            run()
            return run
        torch = self.torch
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay

    def measure(self, run, calls=1, least=5):
        """Median seconds of a call, and half of the 10th to 90th percentile over it."""
        torch, times = self.torch, []
        run()
        self.wait()
        end = time.perf_counter() + self.seconds
        while len(times) < least or time.perf_counter() < end:
            if self.cuda:
                a, b = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                a.record()
                run()
                b.record()
                self.wait()
                times.append(a.elapsed_time(b) / 1e3 / calls)
            else:
                start = time.perf_counter()
                run()
                times.append((time.perf_counter() - start) / calls)
        times.sort()
        median = statistics.median(times)
        spread = (times[round(0.9 * (len(times) - 1))] - times[round(0.1 * (len(times) - 1))]) / 2 / median
        return median, spread, len(times)

    def calls(self, call, copies):
        """call(0), call(1), ... as one recording of at least 20."""
        count = max(20, copies)

        def run():
            for i in range(count):
                call(i % copies)

        return self.measure(self.record(run), count)

    def report(self, name, call, copies, data=0.0, flops=0.0):
        try:
            median, spread, n = self.calls(call, copies)
        except Exception as e:  # whatever this version of torch lacks
            return say(what=name, not_measured=f"{type(e).__name__}: {e}".split("\n")[0])
        say(what=name, us=1e6 * median, spread=spread, regions=n, tb_per_s=data / median / 1e12,
            tflop_per_s=flops / median / 1e12)


def products(m, s, small):
    torch = m.torch
    qkv = (s["heads"] + 2 * s["kv_heads"]) * s["dim"]
    shapes = {"qkv": (qkv, s["hidden"]), "o": (s["hidden"], s["heads"] * s["dim"]),
              "gate_up": (2 * s["inter"], s["hidden"]), "down": (s["hidden"], s["inter"]),
              "lm_head": (s["vocab"], s["hidden"])}
    for name, (n, k) in shapes.items():
        weights = [m.normal(n, k, deviation=0.02) for _ in range(m.copies(2 * n * k))]
        rows_list = (1, 16) if small else (1, 16, 64, 256) if name == "lm_head" else (1, 16, 64, 256, 1024, 4096, 8192)
        for rows in rows_list:
            x = m.normal(rows, k)
            m.report(f"product/bfloat16/{name}/m:{rows}", lambda i: torch.nn.functional.linear(x, weights[i]),
                     len(weights), 2 * n * k, 2 * rows * n * k)
        if name == "lm_head":
            continue
        try:
            eighths = [w.to(torch.float8_e4m3fn) for w in weights]
            one = torch.ones((), device=m.device)
        except Exception as e:
            say(what=f"product/fp8/{name}", not_measured=f"{type(e).__name__}: {e}".split("\n")[0])
            continue
        for rows in (16,) if small else (16, 64, 256, 1024, 4096):
            x = m.normal(rows, k).to(torch.float8_e4m3fn)
            m.report(f"product/fp8/{name}/m:{rows}",
                     lambda i: torch._scaled_mm(x, eighths[i].t(), scale_a=one, scale_b=one,
                                                out_dtype=torch.bfloat16), len(eighths), n * k, 2 * rows * n * k)


def attend(torch, q, k, v, causal):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


def attention(m, s, small):
    heads, kv_heads, dim = s["heads"], s["kv_heads"], s["dim"]
    for batch in (1, 2) if small else (1, 8, 32, 64):
        for length in (128,) if small else (1024, 4096, 16384):
            size = 2 * 2 * batch * length * kv_heads * dim
            caches = [[m.normal(batch, kv_heads, length, dim) for _ in range(2)] for _ in range(m.copies(size))]
            q = m.normal(batch, heads, 1, dim)
            m.report(f"decode_attention/bfloat16/batch:{batch}/kv:{length}",
                     lambda i: attend(m.torch, q, *caches[i], False), len(caches), size,
                     4 * batch * length * heads * dim)
            del caches
    for length in (128,) if small else (1024, 2048, 4096, 8192, 16384):
        q, (k, v) = m.normal(1, heads, length, dim), (m.normal(1, kv_heads, length, dim) for _ in range(2))
        m.report(f"prompt_attention/bfloat16/length:{length}", lambda i: attend(m.torch, q, k, v, True), 1, 0,
                 2 * length * (length + 1) * heads * dim)
    say(what="latent_attention", not_measured="torch has no kernel that attends to latents")


class Layers:
    """A Llama's step in plain torch operators over contiguous caches."""

    def __init__(self, m, s, layers):
        self.m, self.s, self.torch = m, s, m.torch
        hidden, inter, q, kv = s["hidden"], s["inter"], s["heads"] * s["dim"], s["kv_heads"] * s["dim"]
        make = lambda n, k: m.normal(n, k, deviation=0.02)
        self.layers = [dict(qkv=make(q + 2 * kv, hidden), o=make(hidden, q), up=make(2 * inter, hidden),
                            down=make(hidden, inter), a=m.normal(hidden), b=m.normal(hidden))
                       for _ in range(layers)]
        self.embedding, self.head, self.norm = make(s["vocab"], hidden), make(s["vocab"], hidden), m.normal(hidden)

    def rms(self, x, w):
        return self.torch.nn.functional.rms_norm(x, (x.shape[-1],), w, 1e-5)

    def turn(self, x, cosines, sines):
        a, b = x.chunk(2, -1)
        return self.torch.cat((a * cosines - b * sines, b * cosines + a * sines), -1)

    def run(self, tokens, at, caches, causal):
        """tokens [batch, n] at places [at, at + n) of the caches; logits of the last of each."""
        torch, s = self.torch, self.s
        heads, kv_heads, dim = s["heads"], s["kv_heads"], s["dim"]
        batch, n = tokens.shape
        place = torch.arange(at, at + n, device=self.m.device)
        angles = place[:, None] * 5e5 ** (-torch.arange(0, dim, 2, device=self.m.device) / dim)
        cosines, sines = angles.cos().bfloat16(), angles.sin().bfloat16()
        linear = torch.nn.functional.linear
        x = self.embedding[tokens]
        for w, (keys, values) in zip(self.layers, caches):
            qkv = linear(self.rms(x, w["a"]), w["qkv"]).view(batch, n, heads + 2 * kv_heads, dim).transpose(1, 2)
            q, k, v = qkv.split((heads, kv_heads, kv_heads), 1)
            q, k = self.turn(q, cosines, sines), self.turn(k, cosines, sines)
            keys[:, :, at:at + n], values[:, :, at:at + n] = k, v
            y = attend(torch, q, keys[:, :, :at + n], values[:, :, :at + n], causal)
            x = x + linear(y.transpose(1, 2).reshape(batch, n, heads * dim), w["o"])
            gate, up = linear(self.rms(x, w["b"]), w["up"]).chunk(2, -1)
            x = x + linear(torch.nn.functional.silu(gate) * up, w["down"])
        return linear(self.rms(x[:, -1], self.norm), self.head)


def try_to(name, f):
    try:
        f()
    except Exception as e:
        say(**name, not_measured=f"{type(e).__name__}: {e}".split("\n")[0])


def step(m, s, small):
    torch = m.torch
    model = Layers(m, s, s["layers"])
    prompt = 128 if small else 8192
    weights = sum(t.numel() for w in model.layers for t in w.values()) + model.head.numel()

    def decode(batch, context):
        shape = (batch, s["kv_heads"], context, s["dim"])
        caches = [[m.normal(*shape) for _ in range(2)] for _ in model.layers]
        tokens = torch.randint(0, s["vocab"], (batch, 1), device=m.device)
        run = lambda: model.run(tokens, context - 1, caches, False)
        for recorded in (True, False) if m.cuda else (False,):
            median, spread, n = m.measure(m.record(run) if recorded else run)
            moved = 2 * weights + 2 * 2 * s["layers"] * math.prod(shape)
            say(what="torch/decode", format="bfloat16", batch=batch, context=context, recorded=recorded,
                step_ms=1e3 * median, spread=spread, repeats=n, tb_per_s=moved / median / 1e12)

    def whole_prompt():
        caches = [[m.normal(1, s["kv_heads"], prompt, s["dim"]) for _ in range(2)] for _ in model.layers]
        tokens = torch.randint(0, s["vocab"], (1, prompt), device=m.device)
        median, spread, n = m.measure(lambda: model.run(tokens, 0, caches, True))
        flops = 2 * (weights - model.head.numel()) * prompt + 2 * model.head.numel() \
            + s["layers"] * 2 * prompt * (prompt + 1) * s["heads"] * s["dim"]
        say(what="torch/prompt", format="bfloat16", length=prompt, step_ms=1e3 * median, spread=spread, repeats=n,
            tflop_per_s=flops / median / 1e12)

    for batch in (1, 2) if small else (1, 64):
        for context in (128,) if small else (1024, 4096):
            try_to(dict(what="torch/decode", batch=batch, context=context), lambda: decode(batch, context))
    try_to(dict(what="torch/prompt", length=prompt), whole_prompt)


def transformers_llama(m, s, small):
    torch = m.torch
    try:
        import transformers
        from transformers import LlamaConfig, LlamaForCausalLM, StaticCache
    except ImportError as e:
        return say(what="transformers", not_measured=f"transformers isn't installed here ({e})")
    transformers.logging.set_verbosity_error()
    config = LlamaConfig(hidden_size=s["hidden"], intermediate_size=s["inter"], num_hidden_layers=s["layers"],
                         num_attention_heads=s["heads"], num_key_value_heads=s["kv_heads"], head_dim=s["dim"],
                         vocab_size=s["vocab"], max_position_embeddings=16384)
    config._attn_implementation = "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(m.device):
        model = LlamaForCausalLM(config).eval()
    torch.set_default_dtype(before)
    prompt = 128 if small else 8192

    def forward(tokens, cache, at):
        place = torch.arange(at, at + tokens.shape[1], device=m.device)
        arguments = dict(input_ids=tokens, past_key_values=cache, use_cache=True, position_ids=place[None],
                         logits_to_keep=1)
        try:
            return model(**arguments, cache_position=place).logits
        except TypeError:  # later versions count for themselves
            return model(**arguments).logits

    def decode(batch, context):
        cache = StaticCache(config=config, max_cache_len=context)
        tokens = torch.randint(0, s["vocab"], (batch, context), device=m.device)
        chunk = max(1, 8192 // batch)
        for at in range(0, context - 1, chunk):
            forward(tokens[:, at:min(at + chunk, context - 1)], cache, at)
        # Always the same place: a cache that counts its tokens would be full after the first step.
        layers = getattr(cache, "layers", [])
        held = [(l, name, getattr(l, name)) for l in layers for name in ("cumulative_length",) if hasattr(l, name)]
        held = [(l, name, v.clone() if hasattr(v, "clone") else v) for l, name, v in held]

        def run():
            for l, name, v in held:
                old = getattr(l, name)
                old.copy_(v) if hasattr(old, "copy_") else setattr(l, name, v)
            forward(tokens[:, -1:], cache, context - 1)

        median, spread, n = m.measure(run)
        say(what="transformers/decode", format="bfloat16", batch=batch, context=context, recorded=False,
            step_ms=1e3 * median, spread=spread, repeats=n)

    def whole_prompt():
        tokens = torch.randint(0, s["vocab"], (1, prompt), device=m.device)
        median, spread, n = m.measure(lambda: model(input_ids=tokens, use_cache=False, logits_to_keep=1))
        say(what="transformers/prompt", format="bfloat16", length=prompt, step_ms=1e3 * median, spread=spread, repeats=n)

    say(what="transformers", version=transformers.__version__)
    for batch in (1, 2) if small else (1, 64):
        for context in (128,) if small else (1024, 4096):
            try_to(dict(what="transformers/decode", batch=batch, context=context), lambda: decode(batch, context))
    try_to(dict(what="transformers/prompt", length=prompt), whole_prompt)


PARTS = {"products": products, "attention": attention, "step": step, "transformers": transformers_llama}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default=",".join(PARTS), help="of " + ", ".join(PARTS))
    parser.add_argument("--seconds", type=float, default=0.15, help="that a row is measured for")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="a tiny model")
    args = parser.parse_args()
    for name in args.part.split(","):
        if name not in PARTS:
            parser.error(f"--part: {name} is none of {', '.join(PARTS)}")
    try:
        import torch
    except ImportError as e:
        return say(what="torch", not_measured=f"PyTorch isn't installed here ({e})")
    if args.device == "cuda" and not torch.cuda.is_available():
        return say(what="torch", version=torch.__version__, not_measured="no CUDA device: PyTorch sees none")
    name = torch.cuda.get_device_name(0) if args.device == "cuda" else "processor"
    say(what="torch", version=torch.__version__, cuda=torch.version.cuda, device=name)
    m = Machine(torch, args.device, args.seconds)
    with torch.inference_mode():
        for part in args.part.split(","):
            try_to(dict(what=part), lambda: PARTS[part](m, SMALL if args.small else LLAMA, args.small))
            if m.cuda:
                torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
