#!/usr/bin/env python3
"""A second decoder of the packed formats, written from runtime/model_file/FORMAT.md alone: weight by weight, bit by
bit, in exact f32 arithmetic. It checks a folder of golden vectors, or writes their decoded values anew.

    decode_format.py FOLDER            compares every blob's values with its .f32 file
    decode_format.py FOLDER --write    writes the .f32 files and their checksums in formats.json

FOLDER holds formats.json and the blobs (formats.tar.zst, unpacked). Codebooks are read from FORMAT.md. Needs nothing
but Python.
"""
import hashlib
import json
import pathlib
import re
import struct
import sys

FORMAT_MD = pathlib.Path(__file__).resolve().parents[2] / "runtime/model_file/FORMAT.md"

# Section 3: steps, weights and bytes of a group, scale
FORMATS = {
    "t2": ((2, 2), 32, 8, "S4"),
    "t2_5": ((2, 3), 16, 5, "S4"),
    "t3": ((3, 3), 16, 6, "S4"),
    "t3_5": ((3, 4), 16, 7, "S4"),
    "t4": ((4, 4), 16, 8, "S4"),
    "t4h": ((4, 4), 16, 8, "S8"),
    "t5": ((5, 5), 8, 5, "S8"),
    "nl6": ((6, 6), 8, 6, "S8"),
    "w8": ((8, 8), 4, 4, "S8"),
}


def codebooks():
    found = {}
    for name, values in re.findall(r"^- (\w+), unit [\d.]+(?: \(sorted\))?: ([-\d ]+)$", FORMAT_MD.read_text(), re.M):
        found[name] = [int(v) for v in values.split()]
        if len(found[name]) != 64:
            sys.exit(f"{FORMAT_MD}: codebook of {name}: {len(found[name])} values, not 64")
    return found


def f32(x):
    """x rounded to f32. A product of two f32 is exact in the doubles of Python, so it is rounded once."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def scale_of(kind, table, scales, block, row):
    """Section 4: `scales` are a superchunk's first bytes."""
    if kind == "S8":
        return struct.unpack("<f", struct.pack("<I", (scales[16 * block + row] << 19) + (119 << 23)))[0]
    word = struct.unpack_from("<I", scales, 8 * block + 4 * (row & 1))[0]
    return table[word >> 4 * (row >> 1) & 15]


def code_of(steps, n, size, codes, row, k):
    """The code of column k of a 32-k block whose codes are `codes`; groups of n weights have `size` bytes a row."""
    group, t = divmod(k, n)
    begin = group * 16 * size + (row & 1) * 8 * size + (row >> 1) * size
    string = codes[begin : begin + size]
    offset = sum(steps[i & 1] for i in range(t))
    code = 0
    for j in range(6):
        i = (offset + j) % (8 * size)
        code |= (string[i >> 3] >> (i & 7) & 1) << j
    return code


def decode(name, rows, columns, blob, codebook):
    steps, n, size, kind = FORMATS[name]
    rows_padded, k_padded = -(-rows // 16) * 16, -(-columns // 128) * 128
    table = struct.unpack_from("<16f", blob, 0)
    row_scales = struct.unpack_from(f"<{rows_padded}f", blob, 64)
    panels = 64 + -(-4 * rows_padded // 64) * 64
    scale_bytes = 64 if kind == "S8" else 32
    block_bytes = 16 * 32 // n * size
    superchunk_bytes = scale_bytes + 4 * block_bytes
    if len(blob) != panels + rows_padded // 16 * (k_padded // 128) * superchunk_bytes:
        sys.exit(f"{name}: a blob of {len(blob)} bytes is not one of {rows} x {columns}")
    values = []
    for r in range(rows):
        panel, row = divmod(r, 16)
        for k in range(columns):
            superchunk = panels + (panel * (k_padded // 128) + k // 128) * superchunk_bytes
            block = k % 128 // 32
            scale = scale_of(kind, table, blob[superchunk : superchunk + scale_bytes], block, row)
            begin = superchunk + scale_bytes + block * block_bytes
            codes = blob[begin : begin + block_bytes]
            if name == "w8":
                value = codes[k % 32 // 4 * 64 + row * 4 + (k & 3)] - 128
            else:
                value = codebook[code_of(steps, n, size, codes, row, k % 32)]
            values.append(f32(row_scales[r] * f32(scale * value)))
    return struct.pack(f"<{len(values)}f", *values)


def main():
    folder, write = pathlib.Path(sys.argv[1]), sys.argv[2:] == ["--write"]
    books = codebooks()
    listing = json.loads((folder / "formats.json").read_text())
    n_changed = 0
    for vector in listing["vectors"]:
        blob = (folder / vector["blob"]).read_bytes()
        name = vector["format"]
        decoded = decode(name, vector["rows"], vector["k"], blob, books.get(name))
        same = decoded == (folder / vector["decoded"]).read_bytes()
        print(vector["blob"], "same" if same else "written" if write else "DIFFERENT")
        n_changed += not same
        if write and not same:
            (folder / vector["decoded"]).write_bytes(decoded)
            vector["sha256_decoded"] = hashlib.sha256(decoded).hexdigest()
    if write and n_changed:
        (folder / "formats.json").write_text(json.dumps(listing, indent=1) + "\n")
    return 1 if n_changed and not write else 0


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or (len(sys.argv) == 3 and sys.argv[2] != "--write"):
        sys.exit(__doc__)
    sys.exit(main())
