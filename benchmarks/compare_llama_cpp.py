"""Whole-model speed of the CPU executor beside llama.cpp's CPU backend: the same shape, formats and threads,
random weights, in turns so that both see the same machine.

    python -m venv v && v/bin/pip install llama-cpp-python gguf
    v/bin/python benchmarks/compare_llama_cpp.py build/release/benchmarks/model_speed \
        model/presets/llama-3.2-1b.json --folder /tmp

Formats of llama.cpp beside ours: F16 and BF16 beside bfloat16, Q8_0 beside int8 (embeddings, which are the
output matrix too, stay in 16 bits on both sides). Prints tokens/s by the clock (medians and best of the rounds), and
the ratio of each round's pair. A machine at work makes two threads meaningless; the processor's seconds of one
thread are then the better comparison.
"""
import argparse
import ctypes
import json
import os
import statistics
import subprocess
import time

import numpy as np


def write_model(config, path, kind):
    import gguf

    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    heads, kv_heads, dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    wide, vocab = config["intermediate_size"], config["vocab_size"]
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(layers)
    w.add_context_length(8192)
    w.add_embedding_length(hidden)
    w.add_feed_forward_length(wide)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_key_length(dim)
    w.add_value_length(dim)
    w.add_rope_dimension_count(dim)
    w.add_rope_freq_base(config["rope_theta"])
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_vocab_size(vocab)
    w.add_tokenizer_model("none")
    random = np.random.default_rng(1)
    types = gguf.GGMLQuantizationType
    matrix = {"F16": types.F16, "BF16": types.BF16, "Q8_0": types.Q8_0}[kind]
    plain = types.BF16 if kind == "BF16" else types.F16

    def add(name, rows, columns, stored):
        values = random.standard_normal((rows, columns), dtype=np.float32) / np.float32(columns) ** 0.5
        w.add_tensor(name, gguf.quantize(values, stored), raw_dtype=stored)

    def ones(name):
        w.add_tensor(name, np.ones(hidden, dtype=np.float32))

    add("token_embd.weight", vocab, hidden, plain)
    ones("output_norm.weight")
    for i in range(layers):
        b = f"blk.{i}."
        ones(b + "attn_norm.weight")
        ones(b + "ffn_norm.weight")
        add(b + "attn_q.weight", heads * dim, hidden, matrix)
        add(b + "attn_k.weight", kv_heads * dim, hidden, matrix)
        add(b + "attn_v.weight", kv_heads * dim, hidden, matrix)
        add(b + "attn_output.weight", hidden, heads * dim, matrix)
        add(b + "ffn_gate.weight", wide, hidden, matrix)
        add(b + "ffn_up.weight", wide, hidden, matrix)
        add(b + "ffn_down.weight", hidden, wide, matrix)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


class LlamaCpp:
    def __init__(self, path, threads, prompt, output):
        import llama_cpp as c

        self.c, self.prompt, self.output = c, prompt, output
        m = c.llama_model_default_params()
        self.model = c.llama_model_load_from_file(path.encode(), m)
        p = c.llama_context_default_params()
        p.n_ctx, p.n_batch, p.n_ubatch = prompt + output + 8, prompt, prompt
        p.n_threads = p.n_threads_batch = threads
        self.context = c.llama_init_from_model(self.model, p)
        self.vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self.model))
        if not self.context:
            raise SystemExit("llama.cpp does not load " + path)

    def step(self, tokens):
        """Runs tokens and takes the best next one, as our side does."""
        array = (self.c.llama_token * len(tokens))(*tokens)
        if self.c.llama_decode(self.context, self.c.llama_batch_get_one(array, len(tokens))) != 0:
            raise SystemExit("llama_decode failed")
        logits = self.c.llama_get_logits_ith(self.context, -1)
        return int(np.argmax(np.ctypeslib.as_array(logits, shape=(self.vocab,))))

    def round(self):
        self.c.llama_memory_clear(self.c.llama_get_memory(self.context), True)
        a, pa = time.perf_counter(), time.process_time()
        token = self.step([(i * i * 7 + i * 13 + 31) % self.vocab for i in range(self.prompt)])
        b, pb = time.perf_counter(), time.process_time()
        for _ in range(self.output):
            token = self.step([token])
        end, pe = time.perf_counter(), time.process_time()
        return {"prompt_seconds": b - a, "token_seconds": (end - b) / self.output,
                "prompt_processor": pb - pa, "token_processor": (pe - pb) / self.output}

    def close(self):
        self.c.llama_free(self.context)
        self.c.llama_model_free(self.model)


class Ours:
    def __init__(self, program, config, kind, threads, prompt, output):
        self.process = subprocess.Popen(
            [program, config, kind, str(threads), str(prompt), str(output)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        json.loads(self.process.stdout.readline())

    def round(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="model_speed")
    parser.add_argument("config", help="config.json of a Llama")
    parser.add_argument("--folder", default=".", help="where the GGUF files go (kept)")
    parser.add_argument("--pairs", default="bfloat16:F16,bfloat16:BF16,int8:Q8_0")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--output", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with open(args.config) as f:
        config = json.load(f)

    import llama_cpp

    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    print("llama-cpp-python", llama_cpp.__version__, "| load", *os.getloadavg())
    for pair in args.pairs.split(","):
        kind, theirs = pair.split(":")
        path = os.path.join(args.folder, f"random-{theirs}.gguf")
        if not os.path.exists(path):
            write_model(config, path, theirs)
        for threads in map(int, args.threads.split(",")):
            ours = Ours(args.program, args.config, kind, threads, args.prompt, args.output)
            other = LlamaCpp(path, threads, args.prompt, args.output)
            rounds = [(ours.round(), other.round()) for _ in range(args.rounds + 1)][1:]
            ours.close()
            other.close()
            for what, tokens in (("prompt", args.prompt), ("token", 1)):
                rate = [[tokens / r[side][what + "_seconds"] for r in rounds] for side in (0, 1)]
                ratios = [a / b for a, b in zip(*rate)]
                work = [r[1][what + "_processor"] / r[0][what + "_processor"] for r in rounds]
                print(f"{kind} | {theirs} | {threads} thread{'s' if threads > 1 else ''} | "
                      f"{'prompt' if what == 'prompt' else 'decode'}: "
                      f"{statistics.median(rate[0]):.1f} (best {max(rate[0]):.1f}) | "
                      f"{statistics.median(rate[1]):.1f} (best {max(rate[1]):.1f}) tokens/s | "
                      f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
                      f"of best {max(rate[0]) / max(rate[1]):.2f}, "
                      f"of processor time {statistics.median(work):.2f}"
                      + (f"; ours of what memory gives {statistics.median(r[0]['of_memory_read'] for r in rounds):.2f}"
                         if what == "token" else ""), flush=True)


if __name__ == "__main__":
    main()
