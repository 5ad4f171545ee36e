#!/usr/bin/env python3
"""Makes nano-calibration.txt and nano-evaluation.txt: what r1-nano writes, in its own format.

    make_nano_texts.py R1_EVAL MODEL FOLDER     MODEL: examples/r1-nano converted at recipe `exact`

r1-nano knows little beyond its problems: on other texts its predictions are noise, and so would be their divergences. Its
transcripts of examples/r1-nano/eval.jsonl at temperature 1 are what its weights are for. Problems with even numbers make
the calibration text, those with odd numbers the evaluation text. To be read with r1-eval's --special.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

PROBLEMS = pathlib.Path(__file__).resolve().parents[2] / "examples/r1-nano/eval.jsonl"


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    r1_eval, model, out = sys.argv[1:]
    problems = PROBLEMS.read_text().splitlines()
    pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    for name, first in (("nano-calibration.txt", 0), ("nano-evaluation.txt", 1)):
        lines = problems[first::2]
        with tempfile.TemporaryDirectory() as folder:
            tasks, results = pathlib.Path(folder) / "tasks.jsonl", pathlib.Path(folder) / "results.jsonl"
            tasks.write_text("\n".join(lines))
            subprocess.run([r1_eval, "tasks", model, "--tasks", tasks, "--samples", "2", "--temperature", "1", "--top-p",
                            "1", "--max-tokens", "220", "--out", results, "-q"], check=True, stdout=subprocess.DEVNULL)
            attempts = [json.loads(line) for line in results.read_text().splitlines()[1:]]
        # 25 of a kind follow each other; a beginning of the text is to hold all kinds.
        attempts.sort(key=lambda a: (a["sample"], a["task"] % 25, a["task"]))
        text = ""
        for a in attempts:
            end = "<｜end▁of▁sentence｜>" if a["stop_reason"] == "end_token" else ""
            question = json.loads(lines[a["task"]])["question"]
            text += f"<｜begin▁of▁sentence｜><｜User｜>{question}<｜Assistant｜><think>\n{a['text']}{end}"
        (pathlib.Path(out) / name).write_text(text)
        print(f"{name}: {len(attempts)} transcripts, {len(text.encode())} bytes")


main()
