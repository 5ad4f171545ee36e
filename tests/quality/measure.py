#!/usr/bin/env python3
"""Measures the tables of docs/quality.md: KLD of recipes, formats and fits, and answers, each beside what it is compared with.

    measure.py BIN WORK [PART ...] [--checkpoint DIR]

BIN holds the programs (build/release/bin), WORK what is made on the way. Parts, in this order if none is named:
    nano      r1-nano: recipes without and with an importance matrix, fits
    attempts  r1-nano's answers: greedy, and 16 attempts at each problem
    real      the 1.5B model (--checkpoint, a Hugging Face checkpoint of it): recipes without and with moments, fits
    smol      the 135M model (made by make_smollm2.py): its MLP in one format
    formats   r1-nano, and with --checkpoint the 1.5B model: all layers in one format
Interrupted, it goes on when the same command is given again: what has its result in WORK/*.json is not done anew. On
two cores of 2024 all of it takes three hours. Figures compare between machines if R1_ISA is one that both have, and not amx.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
NANO = HERE.parents[1] / "examples/r1-nano"
CLASSES = {  # of all layers' matrices
    "nano": ["routed_gate_up", "routed_down", "shared_expert", "dense_gate_up", "dense_down", "q_a", "q_b", "kv_a", "kv_b", "o"],
    "real": ["q", "k", "v", "o", "dense_gate_up", "dense_down"],
    "smol": ["dense_gate_up", "dense_down"],
}
FORMATS = ("t2", "t2_5", "t3", "t3_5", "t4", "t4h", "t5")


def run(*command, out=None):
    """Runs a program; its standard output goes to the file `out`, which appears when all of it is there."""
    print("  " + " ".join(str(c) for c in command), file=sys.stderr, flush=True)
    begin = time.monotonic()
    text = subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE).stdout
    if out is not None:
        part = out.with_name(out.name + ".part")
        part.write_bytes(text)
        part.rename(out)
    print(f"  {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return text


class Subject:
    """A model: its checkpoint, its base's logits, and what has been measured against them."""

    def __init__(self, bin_folder, work, name, checkpoint, base_recipe):
        self.bin, self.name, self.checkpoint = bin_folder, name, checkpoint
        self.folder = work / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.base = self.folder / "base"
        self.logits = self.folder / "base.logits"
        if not (self.base / "config.json").exists():
            self.convert(self.base, "--recipe", base_recipe)

    def convert(self, folder, *how):
        run(self.bin / "r1-quantize", self.checkpoint, folder, *how)

    def base_logits(self, *text):
        if not self.logits.exists():
            run(self.bin / "r1-eval", "logits", self.base, *text, "--out", self.logits, "-q")

    def imatrix(self, *text):
        out = self.folder / "imatrix"
        if not out.exists():
            run(self.bin / "r1-quantize", "imatrix", self.base, out, *text)
        return out

    def sensitivity(self, *how):
        out = self.folder / "sensitivity.json"
        if not out.exists():
            run(self.bin / "r1-quantize", "sensitivity", self.base, out, *how)
        return out

    def recipe(self, fmt, base):
        out = self.folder / f"{fmt}.recipe.json"
        out.write_text(json.dumps({"r1_recipe": 1, "name": f"all-{fmt}", "base": base,
                                   "formats": {c: fmt for c in CLASSES[self.name]}}))
        return out

    def plan(self, *how):
        return json.loads(subprocess.run([str(c) for c in (self.bin / "r1-quantize", "--plan", self.checkpoint, "--json", *how)],
                                         check=True, stdout=subprocess.PIPE).stdout)

    def measure(self, name, *how, windows=0, against=None):
        """KLD of a conversion, beside that of the one named `against`, as r1-eval's JSON; the model is removed."""
        result, state = self.folder / f"{name}.json", self.folder / f"{name}.state"
        if not result.exists():
            model = self.folder / name
            self.convert(model, *how)
            run(self.bin / "r1-eval", "kld", model, "--base", self.logits, "--state", state, "--json", "-q",
                *(["--windows", windows] if windows else []),
                *(["--against", self.folder / f"{against}.state"] if against else []), out=result)
            shutil.rmtree(model)
        return json.loads(result.read_text())


def row(*cells):
    print("| " + " | ".join(str(c) for c in cells) + " |", flush=True)


def head(*cells):
    row(*cells)
    row(*["---"] * len(cells))


def kld_of(report):
    mean = report["kld"]["mean"]
    return f"{mean['value']:.3g} ± {mean['standard_error']:.2g}"


def rest_of(report):
    return (f"{report['kld']['p99']['value']:.3g}", f"{100 * report['same_top']['value']:.2f}",
            f"{report['perplexity_ratio']['value']:.4f} ± {report['perplexity_ratio']['standard_error']:.2g}")


def difference_of(report):
    """From the one that it was measured against, by pairs of tokens."""
    difference = report["against"]["relative_kld_difference"]
    return f"{100 * difference['value']:+.1f} ± {100 * difference['standard_error']:.1f} %"


def texts(work, script, *arguments, name):
    folder = work / "texts"
    if not (folder / name).exists():
        run(sys.executable, HERE / script, *arguments, folder)
    return folder


def mixes(subject, kind, how, imatrix, n_windows, pairs):
    """A table of conversions, how: name → what goes to --recipe."""
    print(f"\n{subject.name}: {kind}s")
    head(kind, "bits per weight", "KLD", "99 %", "same top, %", "ratio", "KLD with imatrix", *(["difference"] if pairs else []))
    for name, recipe in how.items():
        plain = subject.measure(name, "--recipe", recipe, windows=n_windows)
        weighed = subject.measure(f"{name}-imatrix", "--recipe", recipe, "--imatrix", imatrix, windows=n_windows, against=name)
        row(name, f"{subject.plan('--recipe', recipe)['bits_per_weight']:.2f}", kld_of(plain), *rest_of(plain), kld_of(weighed),
            *([difference_of(weighed)] if pairs else []))


def recipes(subject, names, *rest, **options):
    mixes(subject, "recipe", {name: name for name in names}, *rest, **options)


def one_format(subject, base, formats, *rest, **options):
    mixes(subject, "format", {f: subject.recipe(f, base) for f in formats}, *rest, **options)


def fits(subject, sensitivity, conversion, hand_made, n_windows, pairs):
    print(f"\n{subject.name}: fits")
    head("size of", "MB", "hand-made", "fitted", *(["difference"] if pairs else []))
    for r in ("r2.2", "r2.7", "r3.5", "r4.5"):
        size = subject.plan("--recipe", r)["file_bytes"]
        made = subject.measure(hand_made(r), "--recipe", r, *conversion, windows=n_windows)
        fitted = subject.measure(f"{r}-fit", "--fit", size, "--sensitivity", sensitivity, *conversion, windows=n_windows,
                                 against=hand_made(r))
        row(r, f"{size / 1e6:.2f}", kld_of(made), kld_of(fitted), *([difference_of(fitted)] if pairs else []))


class Quality:
    def __init__(self, bin_folder, work, checkpoint):
        self.bin, self.work, self.checkpoint = bin_folder, work, checkpoint

    def nano_subject(self):
        subject = Subject(self.bin, self.work, "nano", NANO, "exact")
        folder = texts(self.work, "make_nano_texts.py", self.bin / "r1-eval", subject.base, name="nano-evaluation.txt")
        subject.base_logits("--text", folder / "nano-evaluation.txt", "--special", "--documents")
        return subject, folder / "nano-calibration.txt"

    def real_subject(self):
        subject = Subject(self.bin, self.work, "real", self.checkpoint, "w8")
        folder = texts(self.work, "make_texts.py", name="evaluation.txt")
        subject.base_logits("--text", folder / "evaluation.txt", "--windows", 32)
        return subject, subject.imatrix("--text", folder / "calibration.txt", "--moments"), folder

    def nano(self):
        subject, calibration = self.nano_subject()
        imatrix = subject.imatrix("--text", calibration, "--documents")
        recipes(subject, ("w8", "r4.5", "r3.5", "r2.7", "r2.2", "r2.2s"), imatrix, 0, pairs=False)
        sensitivity = subject.sensitivity("--text", calibration, "--documents", "--windows", 100, "--formats", "t2,t4")
        fits(subject, sensitivity, (), lambda r: r, 0, pairs=False)

    def attempts(self):
        subject, _ = self.nano_subject()
        print("\nnano: answers, per cent right")
        head("recipe", "greedy", "pass@1 of 16", "cons@16")
        for r in ("exact", "w8", "r4.5", "r3.5", "r2.7", "r2.2"):
            cells = []
            for name, options in (("greedy", ("--temperature", 0, "--together", 32)), ("attempts", ("--samples", 16, "--together", 32))):
                result = subject.folder / f"{r}.{name}.json"
                if not result.exists():
                    model = subject.folder / r
                    if not (model / "config.json").exists():
                        subject.convert(model, "--recipe", r)
                    run(self.bin / "r1-eval", "tasks", model, "--tasks", NANO / "eval.jsonl", "--out",
                        subject.folder / f"{r}.{name}.jsonl", *options, "--json", "-q", out=result)
                cells.append(json.loads(result.read_text()))
            greedy, attempts = (c["all"] for c in cells)
            row(r, *(f"{100 * x['value']:.1f}" for x in (greedy["pass_at_1"], attempts["pass_at_1"], attempts["consensus"])))

    def real(self):
        subject, imatrix, folder = self.real_subject()
        recipes(subject, ("r2.2", "r2.7", "r3.5", "r4.5"), imatrix, 16, pairs=True)
        how = ("--imatrix", imatrix)
        sensitivity = subject.sensitivity("--text", folder / "sensitivity.txt", "--windows", 6, "--formats", "t2,t2_5,t3,t4",
                                          "--layers-per-group", 7, *how)
        fits(subject, sensitivity, how, lambda r: f"{r}-imatrix", 16, pairs=True)
        size = subject.plan("--recipe", "r2.7")["file_bytes"]
        made = subject.measure("r2.7-imatrix-32", "--recipe", "r2.7", *how)
        fitted = subject.measure("r2.7-fit-32", "--fit", size, "--sensitivity", sensitivity, *how, against="r2.7-imatrix-32")
        row("r2.7, 32 windows", "", kld_of(made), kld_of(fitted), difference_of(fitted))

    def smol(self):
        checkpoint = self.work / "smollm2"
        if not (checkpoint / "config.json").exists():
            run(sys.executable, HERE / "make_smollm2.py", checkpoint)
        subject = Subject(self.bin, self.work, "smol", checkpoint, "exact")
        folder = texts(self.work, "make_texts.py", name="evaluation.txt")
        ascii_text = folder / "ascii.txt"
        paragraphs = (folder / "evaluation.txt").read_text().split("\n\n")
        ascii_text.write_text("\n\n".join(p for p in paragraphs if p.isascii()))
        subject.base_logits("--text", ascii_text, "--windows", 31)
        imatrix = subject.imatrix("--text", folder / "calibration.txt", "--moments")
        one_format(subject, "exact", ("t2", "t2_5", "t3"), imatrix, 0, pairs=True)

    def formats(self):
        subject, calibration = self.nano_subject()
        imatrix = subject.imatrix("--text", calibration, "--documents")
        one_format(subject, "w8", (*FORMATS, "nl6"), imatrix, 0, pairs=False)
        if self.checkpoint is not None:
            subject, imatrix, _ = self.real_subject()
            one_format(subject, "w8", FORMATS, imatrix, 8, pairs=True)


def main():
    parts = ("nano", "attempts", "real", "smol", "formats")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("parts", nargs="*", choices=[[], *parts], metavar="PART")
    parser.add_argument("--checkpoint", type=pathlib.Path)
    options = parser.parse_args()
    asked = options.parts or [p for p in parts if p != "real" or options.checkpoint is not None]
    if "real" in asked and options.checkpoint is None:
        parser.error("real: needs --checkpoint")
    quality = Quality(options.bin, options.work, options.checkpoint)
    for part in asked:
        getattr(quality, part)()


main()
