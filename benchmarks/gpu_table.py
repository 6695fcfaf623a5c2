"""What scripts/measure-gpu measured beside what the CUDA executor aims at, as a Markdown table:

    python3 benchmarks/gpu_table.py [FOLDER]

What has no result is "not measured". Aims are for an H200: a first version, and what the best known kernels reach.
"""
import json
import os
import re
import statistics
import sys

MISSING = "not measured"


def read(folder, name):
    path = os.path.join(folder, name + ".json")
    if not folder or not os.path.exists(path):
        return []
    with open(path) as f:
        text = f.read()
    if name.startswith(("kernels", "repeat")):
        return [b for b in json.loads(text)["benchmarks"] if not b.get("error_occurred")]
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


class Results:
    def __init__(self, folder):
        self.kernels, self.again, self.torch, self.model = {}, {}, {}, []
        for family in ("machine", "products", "attention", "experts", "small"):
            self.kernels.update({self.plain(b["name"]): b for b in read(folder, "kernels-" + family)})
            self.again.update({self.plain(b["name"]): b for b in read(folder, "repeat-" + family)})
        for line in read(folder, "torch-kernels"):
            if "us" in line:
                self.torch[line["what"]] = {"us": line["us"], "TB/s": line["tb_per_s"], "TFLOP/s": line["tflop_per_s"]}
        for name in ("bfloat16", "fp8", "int4_wo"):
            self.model += [line for line in read(folder, "model-" + name) if "step_ms" in line]
        self.torch_model = [line for line in read(folder, "torch-models") if "step_ms" in line]

    @staticmethod
    def plain(name):  # without what Google Benchmark adds
        return re.sub(r"/(iterations:\d+|manual_time|real_time)", "", name)

    def kernel(self, pattern, key, within=lambda name: True):
        """Medians over all rows that match: measured, measured again, by torch."""
        def of(rows):
            values = [r[key] for name, r in rows.items() if re.fullmatch(pattern, name) and key in r and within(name)]
            return statistics.median(values) if values else None
        return of(self.kernels), of(self.again), of(self.torch)

    def step(self, what, key="step_ms", **wanted):
        def of(lines, prefix=""):
            for line in lines:
                if line["what"] == prefix + what and key in line and all(line.get(k) == v for k, v in wanted.items()):
                    return line[key]
        return of(self.model), None, of(self.torch_model, "torch/")


def size_of_cache(name):
    batch, length = map(int, re.findall(r":(\d+)", name))
    return batch * length * 2 * 2 * 8 * 128


def rows(r):
    large = r"m:(1024|4096|8192)"
    matrices = "(qkv|o|gate_up|down)"
    decode = dict(format="bfloat16", recorded=True)
    own = dict(decode, operator_times=False)
    step = lambda batch, context: (r.step("decode", batch=batch, context=context, **own)[0], None,
                                   r.step("decode", batch=batch, context=context, **decode)[2])
    yield "decoding step of a Llama of 8B, bfloat16, batch 1, context 1,024", "ms", "5.2, then 4.2", step(1, 1024)
    yield "the same at batch 64", "ms", "7.9, then 7.0", step(64, 1024)
    yield "at batch 64, context 4,096", "ms", "14, then 12.4", step(64, 4096)
    # Making its weights takes longer than a part may.
    yield "decoding step of a Llama of 70B, fp8, batch 1", "ms", "23, then 19.5", (None, None, None)
    yield "a prompt of 8,192 in one step, of the device's peak", "", "0.6, then 0.68", r.step("prompt", "mfu", format="bfloat16")
    yield "products in bfloat16 from 1,024 rows on", "TFLOP/s", "740, then 800", \
        r.kernel(f"product/bfloat16/{matrices}/{large}", "TFLOP/s")
    yield "products with fp8 weights from 1,024 rows on", "TFLOP/s", "1,150, then 1,350", \
        r.kernel(f"product/fp8/{matrices}/{large}", "TFLOP/s")
    yield "the same, activations in fp8 too", "TFLOP/s", "1,150, then 1,350", \
        r.kernel(f"quantised_product/fp8/{matrices}/{large}", "TFLOP/s")
    yield "int8 by int8 from 1,024 rows on", "TFLOP/s", "", r.kernel(f"quantised_product/int8/{matrices}/{large}", "TFLOP/s")
    yield "int4 weights up to 16 rows", "TB/s", "2.0, then 3.0", r.kernel(f"product/int4/{matrices}/m:(1|4|16)", "TB/s")
    yield "the same, beside bfloat16", "times its speed", "2.2", r.kernel(f"product/int4/{matrices}/m:(1|4|16)", "of_bf16")
    attention = r"decode_attention/bfloat16/batch:\d+/kv:\d+"
    yield "decode attention over 64 MB of cache and more", "TB/s", "3.6, then 4.2", \
        r.kernel(attention, "TB/s", lambda name: size_of_cache(name) >= 64e6)
    yield "decode attention, batch 1, context 4,096", "us", "18, then 12", \
        r.kernel(r"decode_attention/bfloat16/batch:1/kv:4096", "us")
    yield "attention of a prompt of 8,192, 128 dims", "TFLOP/s", "330, then 550", \
        r.kernel(r"prompt_attention/bfloat16/length:8192", "TFLOP/s")
    yield "latent attention, 128 heads", "TFLOP/s", "250, then 500", \
        r.kernel(r"latent_attention/bfloat16/heads:128/batch:128/kv:\d+", "TFLOP/s")
    yield "latent attention, 16 heads", "TB/s", "3.5, then 4.1", \
        r.kernel(r"latent_attention/bfloat16/heads:16/batch:128/kv:\d+", "TB/s")
    for storage, few, many in (("bfloat16", "3.5, then 4.1", "400, then 700"), ("fp8", "3.2, then 3.9", "600, then 1,200")):
        yield f"experts of Mixtral, {storage}, 64 tokens", "TB/s", few, r.kernel(f"experts/mixtral-8x7b/{storage}/rows:64", "TB/s")
        yield "the same, 2,048 tokens", "TFLOP/s", many, r.kernel(f"experts/mixtral-8x7b/{storage}/rows:2048", "TFLOP/s")
    yield "a launch that does nothing, recorded", "us", "2.4", r.kernel("launches/recorded/count:100", "device_us")
    yield "a copy within the device, read and written", "GB/s", "4,300", r.kernel("copy/within/kib:1048576", "GB/s")


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else ""
    print("| what | | aim | measured | again | PyTorch |\n|---|---|--:|--:|--:|--:|")
    for what, unit, aim, (value, again, torch) in rows(Results(folder)):
        show = lambda v, otherwise: otherwise if v is None else f"{v:,.3g}" if v < 1000 else f"{v:,.0f}"
        print(f"| {what} | {unit} | {aim} | {show(value, MISSING)} | {show(again, '')} | {show(torch, '')} |")


if __name__ == "__main__":
    main()
