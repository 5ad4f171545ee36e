"""Writes rules.jsonl: ids by Hugging Face's tokenizers (pip install tokenizers==0.23.3) for r1-nano's tokenizer.json with
one part replaced at a time, so that every rule a file may use has an oracle.

python3 make_rules.py ../../../examples/r1-nano/tokenizer.json > rules.jsonl"""
import itertools
import json
import sys

from tokenizers import Tokenizer

base = json.load(open(sys.argv[1]))
byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def split(pattern, behavior, invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def tokens(*contents_and_flags):
    """base's added tokens and these; ids as the reference gives them: the vocabulary's, else the next."""
    added, free = list(base["added_tokens"]), 1 + max(t["id"] for t in base["added_tokens"])
    for content, flags in contents_and_flags:
        known = base["model"]["vocab"].get(content)
        added.append({"id": free if known is None else known, "content": content, "single_word": False, "lstrip": False,
                      "rstrip": False, "normalized": False, "special": False, **flags})
        free += known is None
    return added


def template(before, behind):
    def item(t):
        return {"SpecialToken": {"id": t, "type_id": 0}}
    ids = {t: {"id": t, "ids": [Tokenizer.from_str(json.dumps(base)).token_to_id(t)], "tokens": [t]}
           for t in before + behind}
    return {"type": "TemplateProcessing", "single": [item(t) for t in before] + [{"Sequence": {"id": "A", "type_id": 0}}]
            + [item(t) for t in behind], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                                                  {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": ids}


texts = ["", " ", "a", "Hello there,  World 123 45", "12a3\u0664\u00bd\u2167 7", "  leading and trailing  ", "oneTwoThree FOUR",
         "it's I'LL we\u2019d don't'S \u017f's'\u017f", "e\u0301 \u00e9 \u1e9b\u0323 \uac00 \u1100\u1161 \u212b", "a\r\n\n \t\u3000\u00a0\u2028\u0085\u180e\u200bb\n",
         "xxaxxxbx", "\U0001fae8\U0001f6dc\U0001fadf \U00010d40\U00031350\u1c89 \u4e2d\u6587\u304b\u30ca", "a--b-c---", "\x00a\x00"]
patterns = [{"Regex": r"\s+"}, {"String": " "}, {"Regex": r"\d"}, {"Regex": r"x*"}, {"Regex": r"(?=[A-Z])"}, {"String": "-"},
            {"Regex": r"\w+|[^\w\s]+"}, {"Regex": r"\p{Lu}|\P{L}\p{^L}"}, {"Regex": r"\h+|\S{2}"}, {"Regex": r"^|a$"}]
behaviors = ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]

variants = []
for pattern, behavior, invert in itertools.product(patterns, behaviors, [False, True]):
    variants.append({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split(pattern, behavior, invert), byte_level]}})
for individual in [False, True]:
    variants.append({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": individual}, byte_level]}})
for space, regex in itertools.product([False, True], repeat=2):
    variants.append({"pre_tokenizer": {**byte_level, "add_prefix_space": space, "use_regex": regex}})
    variants.append({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        split({"Regex": "[A-Z]"}, "Isolated"), {**byte_level, "add_prefix_space": space, "use_regex": regex}]}})
for normalizer in [None, {"type": "NFC"}, {"type": "Sequence", "normalizers": [{"type": "NFC"}]}]:
    variants.append({"normalizer": normalizer, "added_tokens": tokens(
        ("e\u0301", {"normalized": True}), ("\u212b", {}), ("\uac00", {"normalized": True}))})
flags = ["single_word", "lstrip", "rstrip", "normalized", "special"]
added_texts = ["<x>", " <x> ", "a<x>b", "a <x>b", "a \n<x>\u3000 b", "\u200c<x>", "_<x>-<x>", "<x><x>y <x>yz", "ab <x>y\t",
               "\u0301<x>", "<x <x>>", " <x> <x> "]
for bits in itertools.product([False, True], repeat=5):
    on = dict(zip(flags, bits))
    variants.append({"added_tokens": tokens(("<x>", on), ("<x>y", {}), ("ab", on)),
                     "texts": added_texts})
bos, eos = "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"
for processor in [template([bos], []), template([bos], [eos]), template([], [eos, eos]),
                  {"type": "Sequence", "processors": [byte_level, template([bos], [])]}]:
    variants.append({"post_processor": processor, "texts": ["", "a b"]})
merges = base["model"]["merges"]
variants.append({"model": {"merges": [" ".join(m) for m in merges]}})
variants.append({"model": {"merges": merges + merges[:200]}})
variants.append({"model": {"merges": merges[300:], "ignore_merges": True}})
variants.append({"model": {"merges": merges[300:]}})

for variant in variants:
    asked = variant.pop("texts", texts)
    changed = {**base, **variant}
    changed["model"] = {**base["model"], **variant.get("model", {})}
    tokenizer = Tokenizer.from_str(json.dumps(changed))
    if "model" in variant:  # too long to store: how to make it
        m = variant["model"]["merges"]
        variant["model"] = {k: v for k, v in variant["model"].items() if k != "merges"}
        variant["merges"] = "strings" if isinstance(m[0], str) else "first 200 again" if len(m) > len(merges) else "from 300"
    if "added_tokens" in variant:  # base's are understood
        variant["more_added_tokens"] = variant.pop("added_tokens")[len(base["added_tokens"]):]
    cases = [[text, tokenizer.encode(text).ids if "post_processor" in variant
              else tokenizer.encode(text, add_special_tokens=False).ids] for text in asked]
    print(json.dumps({"replace": variant, "cases": cases}, separators=(",", ":")))
